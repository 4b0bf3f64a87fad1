"""Writes the phantom as a cohort: image files, masks and a table.

    python benchmarks/experiments/phantom_table.py --out=phantom \\
        [--config.data.dir=data]

For studies that read a table. The regions are those of `configs/phantom.py:tables`,
with normalized stains, as PNG; grades are 0, 1 and 2.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax import files
from fof_jax.cli import config as config_flag
from fof_jax.data import prepare
from fof_jax.data.store import Store

COLUMNS = ("image", "mask", "patient", "grade")


def write(store: Store, out: Path) -> Path:
    """Writes the files of a store and returns the table; unknown statuses are empty."""
    side = int(store.sizes[0, 0])
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *store.biomarkers])
    for i in range(len(store)):
        image, mask = f"images/{i:04d}.png", ""
        Image.fromarray(store.native(i)).save(out / image)
        structures = store.read_mask(i, side)
        if structures is not None:
            mask = f"masks/{i:04d}.png"
            Image.fromarray(structures).save(out / mask)
        status = [
            str(int(value)) if known else ""
            for value, known in zip(
                store.biomarker_values[i], store.known[i], strict=True
            )
        ]
        grade = int(store.grades[i])
        table.writerow([image, mask, store.patients[i], grade, *status])
    path = out / "table.csv"
    files.write_text(path, text.getvalue())
    return path


def main(argv: list[str] | None = None) -> None:
    """Opens or draws the phantom and writes it."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--out", type=Path, required=True)
    args, words = flags.parse_known_args(argv)
    config = config_flag.load(["--config=configs/phantom.py:tables", *words])
    print(write(prepare.prepare(config), args.out))


if __name__ == "__main__":
    main()
