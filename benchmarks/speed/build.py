"""Time and memory of `data build` and of reading, at the size of TCGA GBM-LGG.

    python benchmarks/speed/build.py --images=1505 --side=1024

Writes a cohort of synthetic regions into a temporary folder (3 GiB for 1,505 of 1024 x
1024), builds it with the command, and compares reading from the store with PIL on the
same files. The last line is JSON.
"""

import argparse
import csv
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fof_jax.data.store import open_store

DISTINCT = 8  # distinct images; their copies differ in a text chunk


def make_png(seed: int, side: int) -> bytes:
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3), np.float32)
    for cells in (8, 32, 128, side):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(fine, np.float32) / (4 if cells < side else 12)
    stream = io.BytesIO()
    Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def with_text_chunk(png: bytes, text: str) -> bytes:
    body = b"tEXtnumber\0" + text.encode()
    chunk = (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    )
    return png[:-12] + chunk + png[-12:]  # before the last chunk, IEND


def write(folder: Path, images: int, side: int) -> int:
    pngs = [make_png(k, side) for k in range(DISTINCT)]
    (folder / "img").mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient", "grade", "idh"])
        for i in range(images):
            name = f"img/{i:05d}.png"
            data = with_text_chunk(pngs[i % DISTINCT], str(i))
            (folder / name).write_bytes(data)
            table.writerow(
                [name, f"P{i // 2}", ("II", "III", "IV")[i // 2 % 3], i // 2 % 2]
            )
    return sum(len(p) for p in pngs) // DISTINCT


def build(folder: Path, side: int) -> float:
    words = [
        sys.executable, "launch.py", "data", "build", "--config=configs/cohort.py",
        f"--config.data.table={folder / 'table.csv'}",
        f"--config.data.dir={folder / 'data'}", f"--config.data.image_size={side}",
        "--config.data.biomarkers=('idh',)",
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(words, check=True, cwd=Path(__file__).parents[2])
    return time.perf_counter() - start


def rates(folder: Path, side: int, reads: int) -> tuple[float, float]:
    """CPU seconds per image of the store and of PIL; alternating, minimum of each."""
    store = open_store(folder / "data", "cohort")
    store_s, pil_s = [], []
    for i in range(min(reads, len(store))):
        start = time.process_time()
        store.read(i, side)
        middle = time.process_time()
        with Image.open(folder / store.images[i]) as image:
            np.array(image)
        store_s.append(middle - start)
        pil_s.append(time.process_time() - middle)
    return min(store_s), min(pil_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1505)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--reads", type=int, default=100)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, flags.images, flags.side)
        wall = build(folder, flags.side)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        store_s, pil_s = rates(folder, flags.side, flags.reads)
    figures = {
        "images": flags.images,
        "side": flags.side,
        "file_mib": round(size / 2**20, 2),
        "wall_s": round(wall, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),  # Linux counts in KiB
        "read_ms": round(1000 * store_s, 1),
        "pil_ms": round(1000 * pil_s, 1),
        "read_by_pil": round(store_s / pil_s, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
