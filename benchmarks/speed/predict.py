"""Throughput and peak memory of `predict` on many images, ten of them damaged.

python benchmarks/speed/predict.py --checkpoint=runs/phantom/fold_0 --images=1000

The images are generated: PNG, JPEG and TIFF in color, gray and with transparency, 24 to
1024 pixels, most of them small, every hundredth large. The last line is JSON: images,
rows with an error, images per second, peak memory after the first 100 images and after
all, in MiB.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from fof_jax.data.progress import progress_to
from fof_jax.inference import batch, inputs, load

EARLY = 100  # memory should not grow after this number of images
KINDS = (("png", "RGB"), ("jpg", "RGB"), ("tif", "RGB"), ("png", "L"), ("png", "RGBA"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--pictures", action="store_true", help="also plot each map")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        damaged = make_images(images, flags.images)
        print(
            json.dumps(measure(flags.checkpoint, images, out, flags.pictures, damaged))
        )


def measure(
    checkpoint: Path, images: Path, out: Path, pictures: bool, damaged: int
) -> dict[str, float]:
    listed = inputs.find(images)
    model = load.load(checkpoint)
    show, peaks, start = progress_to("graded", sys.stderr), {}, time.monotonic()

    def report_progress(done: int, total: int) -> None:
        show(done, total)
        if done in (min(EARLY, total), total):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    table = batch.predict(
        model, listed, out, plots=pictures, report_progress=report_progress
    )
    taken = time.monotonic() - start
    reasons = {n: e for n, e in zip(table.image, table.error, strict=True) if e}
    for name, reason in reasons.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return {
        "images": len(table),
        "folds": len(model.fold_names),
        "pictures": pictures,
        "broken": damaged,
        "rows_with_a_reason": len(reasons),
        "images_per_s": round(len(table) / taken, 2),
        "peak_mib_early": round(peaks[min(EARLY, len(listed))], 1),
        "peak_mib": round(peaks[len(listed)], 1),
    }


def make_images(folder: Path, count: int) -> int:
    """Writes the images; returns the number of damaged ones, at most ten."""
    rng = np.random.default_rng(0)
    damaged = max(1, min(10, count // 20))
    step = count // damaged
    for i in range(count):
        ending, mode = KINDS[i % len(KINDS)]
        sides = rng.integers(24, 160, 2) if i % 100 != 50 else (1024, 1000)
        noise = rng.integers(120, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(noise).resize(tuple(map(int, sides)), 3).convert(mode)
        path = folder / f"{i:06d}.{ending}"
        image.save(path)
        if i % step == step // 3 + i // step:  # of each kind in turn
            damage(path, image, i // step)
    return damaged


def damage(path: Path, image: Image.Image, way: int) -> None:
    """Replaces an image file by a damaged or an unsupported one."""
    content = path.read_bytes()
    ways = (
        lambda: path.write_bytes(content[: len(content) // 2]),
        lambda: path.write_bytes(b""),
        lambda: path.write_text("no image"),
        lambda: image.convert("CMYK").save(path, "TIFF"),
        lambda: image.convert("P").save(path, "GIF"),
        lambda: image.convert("I;16").save(path, "PNG"),
        lambda: image.save(path, "TIFF", save_all=True, append_images=[image]),
        lambda: path.write_bytes(content[:20] + bytes(40) + content[60:]),
        lambda: (path.unlink(), path.symlink_to("gone")),
        lambda: path.write_bytes(content[:-20]),
    )
    ways[way % len(ways)]()


if __name__ == "__main__":
    main()
