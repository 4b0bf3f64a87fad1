"""Small folder in the layout of Pathomic Fusion's distribution of TCGA GBM-LGG."""

import csv

from PIL import Image

from fof_jax.data.datasets.gbmlgg import OMICS
from tests.support.cohort_files import pixels

COLUMNS = ["TCGA ID", "indexes", "censored", "Survival months", *OMICS]


def distribution(folder, patients):
    """Writes the files; `patients` maps IDs to (grade, idh, number of regions)."""
    (folder / "all_st").mkdir(exist_ok=True)
    Image.fromarray(pixels(0, 4, 4)).save(folder / "one.png")
    data = (folder / "one.png").read_bytes()
    with (
        (folder / "all_dataset.csv").open("w", newline="") as a,
        (folder / "grade_data.csv").open("w", newline="") as g,
    ):
        molecular, graded = csv.writer(a), csv.writer(g)
        molecular.writerow(COLUMNS)
        graded.writerow(["TCGA ID", "Histology", "Grade", "Region count"])
        for patient, (grade, idh, count) in patients.items():
            cells = dict.fromkeys(OMICS, "0")
            cells |= {"idh mutation": idh, "codeletion": idh, "PTEN": "-1"}
            cells |= {"EGFR": "2", "CARD11": "", "FGFR2": "0", "7p": "0.5", "7q": ""}
            cells |= {"10p": "-0.25", "10q": "1"}
            molecular.writerow([patient, 0, 0, 12, *cells.values()])
            graded.writerow([patient, "x", grade, count])
            for k in range(count):
                name = f"{patient}-01Z-00-DX1.abc_{k}.png"
                (folder / "all_st" / name).write_bytes(data)
