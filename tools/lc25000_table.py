"""Writes a cohort table for the lung tiles of LC25000 from their labels.csv.

    python tools/lc25000_table.py FOLDER/labels.csv lung.csv

labels.csv has file, class (lung_n, lung_aca, lung_scc) and tile_cluster. A cluster has
the augmented copies of one tile and is used as the patient. The two biomarkers follow
from the class: malignant, and squamous differentiation.
"""

import csv
import sys
from pathlib import Path

GRADES = {
    # class: (grade, malignant, squamous)
    "lung_n": ("benign", 0, 0),
    "lung_aca": ("adenocarcinoma", 1, 0),
    "lung_scc": ("squamous", 1, 1),
}


def main(labels: Path, table: Path) -> None:
    """Reads `labels`, writes `table` with absolute image paths."""
    with labels.open(newline="") as file:
        tiles = list(csv.DictReader(file, strict=True))
    rows = [["image", "patient", "grade", "malignant", "squamous"]]
    for tile in tiles:
        image = (labels.parent / tile["file"]).resolve()
        rows.append([image, tile["tile_cluster"], *GRADES[tile["class"]]])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    print(f"{table}: {len(tiles)} tiles")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/lc25000_table.py LABELS TABLE")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, KeyError, csv.Error) as error:
        sys.exit(f"error: {error}. Expected the columns and values named above.")
