"""Recognizes the columns of a cohort table and what they hold."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fof_jax.data import images
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import CohortError, raise_errors
from fof_jax.tables.csv_records import unknown

# Names under which tables have the columns, most usual first; compared without case.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "path", "file", "filename", "file_name", "img"),
    "patient": ("patient", "patient_id", "case", "case_id", "subject", "subject_id"),
    "grade": ("grade", "who_grade", "label", "class", "diagnosis", "target"),
    "fold": ("fold",),
    "mask": ("mask", "mask_path"),
}
REQUIRED = ("image", "patient", "grade")
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4}
_MAX_STATES = 6  # distinct values of a biomarker
_MAX_CLASSES = 20
_MIN_ROWS = 30  # with fewer, a biomarker may follow the grade by chance
_MULTIPLE = 16  # patch size of the default encoder
_MAX_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Layout:
    """What `describe` found in a table.

    Attributes:
      columns: names of the columns `image`, `patient`, `grade`, and of `fold` and
        `mask` where the table has them.
      classes: labels in ascending order of grade.
      biomarkers: integer columns with two to six values.
      biomarkers_per: `patient`, or `region` where a patient has several values.
      others: further columns, with the reason why each is not a biomarker.
      image_size: the median of the shorter sides, a multiple of 16, at most 1,024.
      folds: five, or as many as the rarest class has patients.
      regions, patients: numbers.
      smallest_fold: training regions of the smallest fold, if folds have equal sizes.
    """

    columns: dict[str, str]
    classes: tuple[str, ...]
    biomarkers: tuple[str, ...]
    biomarkers_per: str
    others: dict[str, str]
    image_size: int
    folds: int
    regions: int
    patients: int

    @property
    def smallest_fold(self) -> int:
        """See above."""
        return self.regions - -(-self.regions // self.folds)


def describe(table: Path, chosen: Mapping[str, str]) -> Layout:
    """Recognizes columns, classes, biomarkers and image size of a table.

    Args:
      table: a CSV with one row per image; image paths are relative to it.
      chosen: columns that the caller names, by standard name.

    Returns:
      the layout.

    Raises:
      CohortError: the table cannot be read, a required column is not recognized, or
        the values cannot be those of a cohort.
      ImageError: an image is missing or not supported.
    """
    reader = TableReader(table)
    reader.load()
    raise_errors(table, reader.errors)
    columns = _columns(table, reader.header, chosen)
    cells = {h: [row[h] for _, row in reader.lines] for h in reader.header}
    patients, grades = cells[columns["patient"]], cells[columns["grade"]]
    classes = _classes(table, columns["grade"], grades)
    biomarkers, others, per = [], {}, "patient"
    for name in reader.header:
        if name in columns.values() or not name:
            continue
        reason = _not_a_biomarker(cells[name], grades)
        if reason:
            others[name] = reason
            continue
        biomarkers.append(name)
        if _differs_within(cells[name], patients):
            per = "region"
    per_class = {
        label: len({p for p, g in zip(patients, grades, strict=True) if g == label})
        for label in classes
    }
    folds = min(5, *per_class.values())
    if "fold" in columns:
        folds = len(set(cells[columns["fold"]]))
    if folds < 2:
        few = ", ".join(f"{label}: {count}" for label, count in per_class.items())
        raise CohortError(
            f"{table}: patients per class are {few}; expected two patients or more in "
            "each, so that every fold can train and test on all classes."
        )
    return Layout(
        columns=columns,
        classes=classes,
        biomarkers=tuple(biomarkers),
        biomarkers_per=per,
        others=others,
        image_size=_image_size(table.parent, cells[columns["image"]]),
        folds=folds,
        regions=len(reader.lines),
        patients=len(set(patients)),
    )


def _columns(
    table: Path, header: Sequence[str], chosen: Mapping[str, str]
) -> dict[str, str]:
    for name, column in chosen.items():
        if name not in COLUMN_NAMES or column not in header:
            raise CohortError(
                f"--column={name}={column}: expected one of {', '.join(COLUMN_NAMES)} "
                f"and a column of {table.name}, which has {', '.join(header)}."
            )
    folded = {h.casefold(): h for h in reversed(header)}
    columns = dict(chosen)
    for name, usual in COLUMN_NAMES.items():
        free = [folded[u] for u in usual if u in folded]
        free = [column for column in free if column not in columns.values()]
        if name not in columns and free:
            columns[name] = free[0]
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CohortError(
            f"{table}: no column for {', '.join(missing)} among {', '.join(header)}. "
            f"Name it: --column={missing[0]}=COLUMN."
        )
    return {name: columns[name] for name in COLUMN_NAMES if name in columns}


def _classes(table: Path, column: str, cells: Sequence[str]) -> tuple[str, ...]:
    labels = sorted({cell for cell in cells if not unknown(cell)}, key=_rank)
    if not 2 <= len(labels) <= _MAX_CLASSES:
        raise CohortError(
            f"{table}: column {column!r} has {len(labels)} distinct labels, expected 2 "
            f"to {_MAX_CLASSES}. Name the column of the grade: --column=grade=COLUMN."
        )
    return tuple(labels)


def _rank(label: str) -> tuple[float, str]:
    """Sorts by the number or Roman numeral that ends a label, then by the text."""
    last = label.casefold().split()[-1].removeprefix("g")
    if last in ROMAN:
        return float(ROMAN[last]), label
    return (float(last), label) if last.isdigit() else (np.inf, label)


def _not_a_biomarker(cells: Sequence[str], grades: Sequence[str]) -> str:
    """Why a column cannot be a biomarker; "" if it can."""
    known = [cell for cell in cells if not unknown(cell)]
    if not known:
        return "empty"
    try:
        values = {float(cell) for cell in known}
    except ValueError:
        return "text"
    if any(value != round(value) for value in values):
        return "real numbers; data.float_markers, for methods that read them"
    if len(values) == 1:
        return "one value only"
    if len(values) > _MAX_STATES:
        return f"{len(values)} distinct integers"
    pairs = {(c, g) for c, g in zip(cells, grades, strict=True) if not unknown(c)}
    if len(known) >= _MIN_ROWS and len(pairs) == len(values):
        return "each value has one grade, as a copy of the label would"
    return ""


def _differs_within(cells: Sequence[str], patients: Sequence[str]) -> bool:
    first: dict[str, str] = {}
    return any(
        first.setdefault(patient, cell) != cell
        for patient, cell in zip(patients, cells, strict=True)
    )


def _image_size(root: Path, names: Sequence[str]) -> int:
    with images.quiet_decoding():
        headers = [images.read_header(root / name) for name in names if name]
    shorter = np.median([min(h.height, h.width) for h in headers])
    size = int(min(shorter, _MAX_SIZE)) // _MULTIPLE * _MULTIPLE
    return max(size, _MULTIPLE)
