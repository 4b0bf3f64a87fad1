"""Grades a folder of many images, ten of them broken: rate, and peak memory.

python benchmarks/speed/predict.py --checkpoint=runs/phantom/fold_0 --images=1000

The folder is made in a temporary place: PNG, JPEG and TIFF in colour, grey and with
transparency, 24 to 1024 pixels, most of them small, every hundredth large. The last
line is JSON: images, rows with a reason, images per second, the peak of memory after
the first 100 images and after all, in MiB.
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

EARLY = 100  # images after which memory should not grow
KINDS = (("png", "RGB"), ("jpg", "RGB"), ("tif", "RGB"), ("png", "L"), ("png", "RGBA"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--pictures", action="store_true", help="draw each focus, too")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        broken = make(images, flags.images)
        print(
            json.dumps(measure(flags.checkpoint, images, out, flags.pictures, broken))
        )


def measure(
    checkpoint: Path, images: Path, out: Path, pictures: bool, broken: int
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
        "broken": broken,
        "rows_with_a_reason": len(reasons),
        "images_per_s": round(len(table) / taken, 2),
        "peak_mib_early": round(peaks[min(EARLY, len(listed))], 1),
        "peak_mib": round(peaks[len(listed)], 1),
    }


def make(folder: Path, count: int) -> int:
    """Writes the images; how many of them are broken: ten, or fewer of few."""
    rng = np.random.default_rng(0)
    broken = max(1, min(10, count // 20))
    step = count // broken
    for i in range(count):
        ending, mode = KINDS[i % len(KINDS)]
        sides = rng.integers(24, 160, 2) if i % 100 != 50 else (1024, 1000)
        noise = rng.integers(120, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(noise).resize(tuple(map(int, sides)), 3).convert(mode)
        path = folder / f"{i:06d}.{ending}"
        picture.save(path)
        if i % step == step // 3 + i // step:  # of every kind in turn
            spoil(path, picture, i // step)
    return broken


def spoil(path: Path, picture: Image.Image, way: int) -> None:
    """Puts something in an image's place that is none, or that is not read."""
    whole = path.read_bytes()
    ways = (
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: path.write_bytes(b""),
        lambda: path.write_text("no image"),
        lambda: picture.convert("CMYK").save(path, "TIFF"),
        lambda: picture.convert("P").save(path, "GIF"),
        lambda: picture.convert("I;16").save(path, "PNG"),
        lambda: picture.save(path, "TIFF", save_all=True, append_images=[picture]),
        lambda: path.write_bytes(whole[:20] + bytes(40) + whole[60:]),
        lambda: (path.unlink(), path.symlink_to("gone")),
        lambda: path.write_bytes(whole[:-20]),
    )
    ways[way % len(ways)]()


if __name__ == "__main__":
    main()
