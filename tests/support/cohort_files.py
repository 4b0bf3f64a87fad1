"""Small cohorts on disk for tests."""

import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("II", "III", "IV")
BIOMARKERS = ("idh", "EGFR")
SHARED = Path(
    os.environ.get("FOF_SHARED", Path(__file__).parents[3] / "shared")
)  # real files, if available


def pixels(seed: int, height: int = 20, width: int = 20) -> np.ndarray:
    """Noise images, incompressible and distinct for each seed."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def rows_of(n: int) -> list[dict[str, str]]:
    """n rows, two per patient; every fifth patient lacks idh."""
    rows = []
    for i in range(n):
        patient = i // 2
        rows.append(
            {
                "image": f"img/{i:03d}.png",
                "patient": f"P{patient:03d}",
                "grade": CLASSES[patient % 3],
                "idh": "NA" if patient % 5 == 4 else str(patient % 2),
                "EGFR": str(patient % 4 - 1),
            }
        )
    return rows


def write_table(folder: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    """Writes the CSV table."""
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_cohort_files(folder: Path, n: int, side: int = 20) -> Path:
    """Writes n PNG images and their table."""
    rows = rows_of(n)
    (folder / "img").mkdir()
    for i, row in enumerate(rows):
        Image.fromarray(pixels(i, side, side)).save(folder / row["image"])
    return write_table(folder, rows)
