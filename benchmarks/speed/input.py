"""Throughput of the input pipeline, and the time that a step waits for it.

    python benchmarks/speed/input.py --image=1024 --images=16 --step-ms=500

Images are a coarse pattern with noise, stored as PNG in a temporary folder. The step is
simulated by a pause, so that the fraction of waiting can be estimated for any device.
The last line is JSON.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from PIL import Image

from benchmarks import conditions
from fof_jax.data import (
    cohort,
    loader,
    store,
)
from fof_jax.training import (
    parallel,
    prefetch,
)
from fof_jax.types import Batch


def build(folder: Path, images: int, side: int) -> store.Store:
    """Builds a store of `images` synthetic images in `folder`."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        noise = rng.integers(-12, 13, smooth.shape)  # PNG of about 2 bytes per pixel
        pixels = np.clip(smooth.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "patient": f"P{i}", "grade": "II"})
    table = folder / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    read = cohort.read_cohort(table, classes=("II", "III"), biomarkers=())
    store.build_store(read, directory=folder, name="input", image_size=side)
    return store.open_store(folder, "input")


def rate(batches: Iterable[Batch]) -> float:
    """Images per second."""
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch.index)
    return count / (time.perf_counter() - start)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=1024)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--step-ms", type=float, default=500, help="simulated step")
    flags = parser.parse_args(argv)
    before = conditions.conditions()
    device = jax.local_devices()[:1]
    with tempfile.TemporaryDirectory() as folder:
        data = build(Path(folder), flags.images, flags.image)
        encoded = sum(len(data.encoded(i)) for i in range(len(data))) / len(data)

        def batches(cache: str | loader.ImageCache) -> Iterable[Batch]:
            return loader.train_batches(
                data,
                np.arange(len(data)),
                batch_size=flags.batch,
                epochs=flags.epochs,
                seed=0,
                image_size=flags.image,
                cache=cache,
                threads=flags.threads,
            )

        decoded = rate(batches("none"))
        reader = loader.open_cache(data, flags.image, "ram")
        rate(batches(reader))  # fills the cache
        cached = rate(batches(reader))
        result: dict[str, Any] = {
            **vars(flags),
            "bytes_an_image": round(encoded),
            "decoded_images_per_s": round(decoded, 1),
            "cached_images_per_s": round(cached, 1),
        }
        for name, cache in (("input_wait_share", reader), ("uncached", "none")):
            ahead = prefetch.Prefetch(
                batches(cache), lambda batch: parallel.place(batch, device)
            )
            next(ahead)  # the loader starts here
            ahead.take_waited()
            start = time.perf_counter()
            for _, placed in ahead:
                jax.block_until_ready(placed)
                time.sleep(flags.step_ms / 1e3)
            fraction = ahead.take_waited() / (time.perf_counter() - start)
            key = name if name.startswith("input") else f"input_wait_share_{name}"
            result[key] = round(fraction, 4)
    result |= before | {"load_after": conditions.conditions()["load"]}
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
