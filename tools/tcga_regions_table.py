"""Writes a cohort table for TCGA glioma regions from their labels.csv.

    python tools/tcga_regions_table.py FOLDER/labels.csv regions.csv

labels.csv has file, patient, who_grade (2, 3, 4), idh_mutation, codeletion_1p19q and
GENE_cnv columns; the table has the names of configs/gbmlgg.py.
"""

import csv
import sys
from pathlib import Path

GRADES = {"2": "II", "3": "III", "4": "IV"}
BIOMARKERS = {
    "idh": "idh_mutation",
    "codeletion": "codeletion_1p19q",
    "PTEN": "PTEN_cnv",
    "EGFR": "EGFR_cnv",
    "CARD11": "CARD11_cnv",
    "FGFR2": "FGFR2_cnv",
}


def main(labels: Path, table: Path) -> None:
    """Reads `labels`, writes `table` with absolute image paths."""
    with labels.open(newline="") as file:
        regions = list(csv.DictReader(file, strict=True))
    rows = [["image", "patient", "grade", *BIOMARKERS]]
    for region in regions:
        image = (labels.parent / region["file"]).resolve()
        status = [region[column] for column in BIOMARKERS.values()]
        rows.append([image, region["patient"], GRADES[region["who_grade"]], *status])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    print(f"{table}: {len(regions)} regions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/tcga_regions_table.py LABELS TABLE")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, KeyError, csv.Error) as error:
        sys.exit(f"error: {error}. Expected the columns and values named above.")
