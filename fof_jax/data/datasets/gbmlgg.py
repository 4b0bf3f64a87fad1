"""Builds the TCGA GBM-LGG cohort from the distribution of Pathomic Fusion.

Source: Chen et al., Pathomic Fusion (IEEE TMI 2022), folder TCGA_GBMLGG: `all_st/`
(1,505 stain-normalized regions of 1024x1024), `all_dataset.csv` (molecular markers of
769 patients) and `grade_data.csv` (grades). Columns are found by name.
"""

import math
import warnings
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from fof_jax.data.cohort import Cohort, Row
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import (
    CohortError,
    DataWarning,
    MissingDataError,
    RowError,
    raise_errors,
    shortened,
)

CLASSES = ("II", "III", "IV")
# Name in the cohort -> column of all_dataset.csv, in the order of the paper.
BIOMARKERS = {
    "idh": "idh mutation",
    "codeletion": "codeletion",
    "PTEN": "PTEN",
    "EGFR": "EGFR",
    "CARD11": "CARD11",
    "FGFR2": "FGFR2",
}
FLOAT_MARKERS = ("10q", "10p", "7p", "7q")  # the release's four chromosome arms
# Molecular features of Pathomic Fusion, 80 columns in the order of its table: status of
# 1p/19q and IDH, copy numbers of 41 genes (-2 … 2) and of 37 chromosome arms (real).
OMICS = tuple(
    """
    codeletion|idh mutation|EGFR|MDM4|MYC|BRAF|EZH2|MET|SMO|KIAA1549|CREB3L2|NTRK1|PRCC
    |BLM|NTRK3|CRTC3|CDKN2A|CDKN2B|FGFR2|TSHR|TCL1A|TRIP11|GOLGA5|GPHN|DICER1|TCL6|EBF1
    |ITK|RPL22|CDKN2C|LCP1|RB1|IRF4|FGFR1OP|MLLT4|MYB|ROS1|TNFAIP3|GOPC|CARD11|JAK2
    |STK11|PTEN
    |1q|2p|2q|3p|3q|4p|4q|5p|5q|6p|6q|7p|7q|8p|8q|9p|9q|10p|10q|11p|11q|12p|12q|13q|14q
    |15q|16p|16q|17p|17q|18p|18q|19p|20p|20q|21q|22q
    """.replace("\n    ", "")
    .strip()
    .split("|")
)
# Patients, regions and regions per class in the split files of Pathomic Fusion.
EXPECTED = {
    "molecular": (664, 1325, (393, 408, 524)),
    "graded": (736, 1458, (396, 408, 654)),
}
_GRADES = {"2": 0, "3": 1, "4": 2}
_ID = "TCGA ID"
_ID_LENGTH = 12  # TCGA-XX-YYYY
_FILES = ("all_st", "all_dataset.csv", "grade_data.csv")


def check_files(raw_dir: Path | str) -> list[Path]:
    """Finds the files of the distribution.

    Args:
      raw_dir: their folder.

    Returns:
      Paths of the images, sorted.

    Raises:
      MissingDataError: files are missing; says what to download and where to put it.
    """
    raw_dir = Path(raw_dir)
    absent = [name for name in _FILES if not (raw_dir / name).exists()]
    images = sorted((raw_dir / "all_st").glob("*.png"))
    if not absent and images:
        return images
    absent = absent or ["all_st/*.png"]
    raise MissingDataError(
        f"The TCGA GBM-LGG data are not in {raw_dir}: {', '.join(absent)} missing.\n"
        "Get Pathomic Fusion's distribution (the folder data/TCGA_GBMLGG linked from "
        "github.com/mahmoodlab/PathomicFusion): all_st/ (1,505 PNG), "
        "all_dataset.csv, grade_data.csv.\n"
        f"Put the three into {raw_dir} (or point --config.data.raw_dir at them), then "
        "run: python launch.py data build --config=configs/gbmlgg.py"
    )


def _read(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Reads a table as (columns, patient -> cells)."""
    reader = TableReader(path)
    reader.load(encoding_errors="replace")
    if reader.header and _ID not in reader.header:
        header = ", ".join(reader.header[:5])
        raise CohortError(
            f"{path}: expected a column '{_ID}', got {header} …. Is it the file of "
            "Pathomic Fusion's distribution?"
        )
    table: dict[str, dict[str, str]] = {}
    for number, cells in reader.lines:
        if cells[_ID] in table:
            reader.add_error("same patient twice", number, cells[_ID])
        table[cells[_ID]] = cells
    raise_errors(path, reader.errors)
    return reader.header, table


def _number(cell: str) -> float | None:
    """Parses a cell; None where unknown.

    Raises:
      ValueError: the cell is neither a finite number nor unknown.
    """
    if cell in ("", "NA"):
        return None
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"'{cell}' is not a finite number")
    return value


def _markers(cells: dict[str, str], names: list[str]) -> list[float | None]:
    return [_number(cells.get(name, "")) for name in names]


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def make_cohort(raw_dir: Path | str, *, subset: str = "molecular") -> Cohort:
    """Builds the cohort of Sec. IV-A from the files of Pathomic Fusion.

    The first 12 characters of an image name are the patient ID. `NA` and empty cells
    are unknown, without imputation. Image files are not opened.

    Args:
      raw_dir: folder with `all_st/`, `all_dataset.csv` and `grade_data.csv`.
      subset: `molecular` (grade, IDH and 1p/19q known) or `graded` (grade known).

    Returns:
      The cohort, sorted by image name; float markers are those of 10q, 10p, 7p, 7q
      in the table; raw values of the 80 `OMICS` for the fusion methods.

    Warns:
      DataWarning: images without a patient, patients without an image, missing
        columns, counts that differ from the published ones.

    Raises:
      MissingDataError: files are missing; says what to download and where to put it.
      CohortError: a cell cannot be parsed.
      ValueError: an unknown `subset`.
    """
    if subset not in EXPECTED:
        raise ValueError(f"data.subset={subset!r}: expected {' or '.join(EXPECTED)}")
    raw_dir = Path(raw_dir)
    images = check_files(raw_dir)
    columns, molecular = _read(raw_dir / "all_dataset.csv")
    _, graded = _read(raw_dir / "grade_data.csv")
    _warn_missing(columns)
    float_markers = tuple(name for name in FLOAT_MARKERS if name in columns)

    by_patient: dict[str, list[Path]] = {}
    for image in images:
        by_patient.setdefault(image.name[:_ID_LENGTH], []).append(image)
    known_patients = molecular.keys() | graded.keys()
    _warn_unmatched(by_patient, known_patients)

    rows, errors = [], []
    left_out: dict[str, list[str]] = {
        "without a grade": [],
        "without IDH or 1p/19q": [],
        "in one of the two tables": sorted(molecular.keys() ^ graded.keys()),
    }
    for patient, files in by_patient.items():
        cells = molecular.get(patient, {})
        try:
            label = _number(graded.get(patient, {}).get("Grade", ""))
            values = _markers(cells, list(BIOMARKERS.values()))
            floats = tuple(_markers(cells, list(float_markers)))
            omics = tuple(_markers(cells, list(OMICS)))
            status = tuple(None if v is None else _integer(v) for v in values)
        except ValueError as error:
            text = f"{patient}: {error}"
            errors.append(RowError("cell that is not a number", None, text))
            continue
        if patient not in known_patients:
            continue
        if label is None:
            left_out["without a grade"].append(patient)
            continue
        if subset == "molecular" and None in status[:2]:
            left_out["without IDH or 1p/19q"].append(patient)
            continue
        grade = _GRADES.get(f"{label:g}")
        if grade is None:
            text = f"{patient}: {label:g}; expected 2, 3, 4 or NA"
            errors.append(RowError("unknown grade", None, text))
            continue
        rows += [Row(f, patient, grade, status, floats, omics=omics) for f in files]
    raise_errors(raw_dir, errors)
    _report_counts(rows, subset, by_patient, graded, left_out)
    return Cohort(
        tuple(rows),
        CLASSES,
        tuple(BIOMARKERS),
        float_markers,
        raw_dir / "all_st",
        omics=OMICS,
    )


def _integer(value: float) -> int:
    if value != int(value):
        raise ValueError(f"{value} is not an integer; are these z-scores?")
    return int(value)


def _warn_missing(columns: Collection[str]) -> None:
    missing = [name for name in OMICS if name not in columns]
    if missing:
        _warn(
            f"all_dataset.csv lacks {len(missing)} of {len(OMICS)} columns, set to "
            f"unknown: {', '.join(missing)}"
        )


def _warn_unmatched(by_patient: dict[str, list[Path]], known: set[str]) -> None:
    tableless = sorted(by_patient.keys() - known)
    if tableless:
        _warn(f"{len(tableless)} patients have images and are in no table, left out: "
              f"{shortened(tableless)}")  # fmt: skip
    imageless = sorted(known - by_patient.keys())
    if imageless:
        _warn(f"{len(imageless)} patients of the tables have no image in all_st/: "
              f"{shortened(imageless)}")  # fmt: skip


def _report_counts(rows, subset, by_patient, graded, left_out) -> None:
    patient_count = len({row.patient for row in rows})
    counts = Counter(row.grade for row in rows)
    actual = (patient_count, len(rows), tuple(counts[k] for k in range(len(CLASSES))))
    if actual == EXPECTED[subset]:
        return
    text = (
        f"subset '{subset}': expected (patients, regions, II/III/IV) "
        f"{EXPECTED[subset]}, found {actual}"
    )
    differ = []
    for patient, cells in graded.items():
        listed, count = cells.get("Region count", ""), len(by_patient.get(patient, ()))
        if listed.isdigit() and int(listed) != count:
            differ.append(f"{patient} ({listed}, {count} here)")
    if differ:
        text += f". Patients whose region count differs: {shortened(differ)}"
    # Complete lists, to find the single patient that differs.
    for why, patients in left_out.items():
        if patients:
            text += f". Left out, {why} ({len(patients)}): {', '.join(patients)}"
    _warn(text)
