"""Recognizes the columns of a cohort table and what they hold."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fof_jax.data import images, words
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import CohortError, RowError, raise_errors
from fof_jax.tables.csv_records import unknown

# Names under which tables have the columns, most usual first; `_plain` compares them.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "image path", "image file", "image name", "image filename", "path",
        "file path", "file", "filename", "file name", "img", "picture",
    ),
    "patient": (
        "patient", "patient id", "patient no", "patient number", "case", "case id",
        "case no", "case number", "subject", "subject id", "donor", "donor id",
    ),
    "grade": (
        "grade", "who grade", "tumor grade", "tumour grade", "label", "class",
        "diagnosis", "target",
    ),
    "fold": ("fold",),
    "mask": ("mask", "mask path", "mask file"),
}  # fmt: skip
REQUIRED = ("image", "patient", "grade")
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4}
# First words of grades that have no number, below all numbers' order.
SEVERITY = {
    "normal": 0, "control": 0, "healthy": 0, "negative": 0, "benign": 1, "low": 2,
    "mild": 2, "intermediate": 3, "moderate": 3, "medium": 3, "high": 4, "severe": 4,
    "malignant": 5,
}  # fmt: skip
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
      ordered: whether the order of the classes was recognized; else it is that of the
        alphabet.
      words: of the biomarkers and the grade, as `data.words`.
      ungraded: rows without a grade.
      image_size: the median of the shorter sides, a multiple of 16, at most 1,024.
      folds: five, or as many as the rarest class has patients.
      regions, patients: numbers, of the rows that have a grade.
      smallest_fold: training regions of the smallest fold, if folds have equal sizes.
    """

    columns: dict[str, str]
    classes: tuple[str, ...]
    biomarkers: tuple[str, ...]
    biomarkers_per: str
    others: dict[str, str]
    ordered: bool
    words: tuple[str, ...]
    ungraded: int
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
        the values cannot be those of a cohort; images are missing or not supported.
    """
    reader = TableReader(table)
    reader.load()
    raise_errors(table, reader.errors)
    columns = _columns(table, reader.header, chosen)
    every_grade = [row[columns["grade"]] for _, row in reader.lines]
    ungraded = reader.skip_unknown(columns["grade"], words.USUAL)
    cells = {h: [row[h] for _, row in reader.lines] for h in reader.header}
    patients, grades = cells[columns["patient"]], cells[columns["grade"]]
    classes, ordered = _classes(table, columns["grade"], grades)
    biomarkers, others, per = [], {}, "patient"
    for name in reader.header:
        if name in columns.values() or not name:
            continue
        values = [words.replaced(cell, words.USUAL) for cell in cells[name]]
        reason = _no_integers(cells[name], values) or _not_a_biomarker(values, grades)
        if reason:
            others[name] = reason
            continue
        biomarkers.append(name)
        if _differs_within(values, patients):
            per = "region"
    folds = _folds(table, classes, patients, grades)
    if "fold" in columns:
        folds = len(set(cells[columns["fold"]]))
    return Layout(
        columns=columns,
        classes=classes,
        ordered=ordered,
        words=_words([c for name in biomarkers for c in cells[name]], every_grade),
        ungraded=len(ungraded),
        biomarkers=tuple(biomarkers),
        biomarkers_per=per,
        others=others,
        image_size=_image_size(table, reader.lines, columns["image"]),
        folds=folds,
        regions=len(reader.lines),
        patients=len(set(patients)),
    )


def _folds(
    table: Path,
    classes: Sequence[str],
    patients: Sequence[str],
    grades: Sequence[str],
) -> int:
    """Five, or as many as the rarest class has patients."""
    per_class = {
        label: len({p for p, g in zip(patients, grades, strict=True) if g == label})
        for label in classes
    }
    folds = min(5, *per_class.values())
    if folds < 2:
        few = ", ".join(f"{label}: {count}" for label, count in per_class.items())
        raise CohortError(
            f"{table}: patients per class are {few}; expected two patients or more in "
            "each, so that every fold can train and test on all classes."
        )
    return folds


def _columns(
    table: Path, header: Sequence[str], chosen: Mapping[str, str]
) -> dict[str, str]:
    for name, column in chosen.items():
        if name not in COLUMN_NAMES or column not in header:
            raise CohortError(
                f"--column={name}={column}: expected one of {', '.join(COLUMN_NAMES)} "
                f"and a column of {table.name}, which has {', '.join(header)}."
            )
    plain = {_plain(h): h for h in reversed(header)}
    columns = dict(chosen)
    for name, usual in COLUMN_NAMES.items():
        free = [plain[u] for u in usual if u in plain]
        free = [column for column in free if column not in columns.values()]
        if name not in columns and free:
            columns[name] = free[0]
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CohortError(
            f"{table}: no column for {', '.join(missing)} among {', '.join(header)}. "
            f"Pass {' '.join(f'--column={name}=COLUMN' for name in missing)}."
        )
    return {name: columns[name] for name in COLUMN_NAMES if name in columns}


def _plain(name: str) -> str:
    """Words of a column's name, without case and punctuation."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _classes(
    table: Path, column: str, cells: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """The labels in ascending order, and whether that was recognized."""
    labels = sorted(set(cells), key=_rank)
    if not 2 <= len(labels) <= _MAX_CLASSES:
        raise CohortError(
            f"{table}: column {column!r} has {len(labels)} distinct labels, expected 2 "
            f"to {_MAX_CLASSES}. Name the column of the grade: --column=grade=COLUMN."
        )
    spelling_of: dict[str, str] = {}
    for label in labels:
        other = spelling_of.setdefault(words.fold(label), label)
        if other != label:
            raise CohortError(
                f"{table}: column {column!r} has the label {label!r} "
                f"({cells.count(label)} rows) beside {other!r} ({cells.count(other)}); "
                "expected one spelling of a grade. Write one of them everywhere."
            )
    ranks = [_rank(label)[0] for label in labels]
    return tuple(labels), np.inf not in ranks and len(set(ranks)) == len(ranks)


def _rank(label: str) -> tuple[float, str]:
    """Sorts by the number or Roman numeral that ends a label, then by the text.

    Labels that begin with a word of `SEVERITY` are below those with a number.
    """
    first, *_, last = label.casefold().split() * 2
    last = last.removeprefix("g")
    if last in ROMAN:
        return float(ROMAN[last]), label
    if last.isdecimal():
        return float(last), label
    first = re.split(r"\W", first)[0]
    return (SEVERITY[first] - 100.0 if first in SEVERITY else np.inf, label)


def _not_a_biomarker(cells: Sequence[str], grades: Sequence[str]) -> str:
    """Why a column of numbers cannot be a biomarker; "" if it can."""
    known = [cell for cell in cells if not unknown(cell)]
    if not known:
        return "empty"
    values = {float(cell) for cell in known}
    if not all(map(float.is_integer, values)):
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


def _no_integers(cells: Sequence[str], values: Sequence[str]) -> str:
    """Why a column is text; "" if it is numbers once its words are replaced."""
    try:
        for value in (value for value in values if not unknown(value)):
            float(value)
    except ValueError:
        texts = sorted({c for c in cells if not words.is_unknown(c, words.USUAL)})
        if len(texts) > _MAX_STATES:
            return "text"
        return f"text: {', '.join(texts)}; data.words can give them integers"
    return ""


def _words(markers: Sequence[str], grades: Sequence[str]) -> tuple[str, ...]:
    """The usual words among these cells, as `data.words`; of grades, for unknown."""
    of_markers, of_grades = (
        {words.fold(cell) for cell in cells} for cells in (markers, grades)
    )
    return tuple(
        f"{word}={value}"
        for word, value in words.USUAL.items()
        if word in of_markers or (word in of_grades and not value)
    )


def _image_size(
    table: Path, lines: Sequence[tuple[int, Mapping[str, str]]], column: str
) -> int:
    headers, errors = [], []
    with images.quiet_decoding():
        for number, cells in lines:
            if not cells[column]:
                errors.append(RowError("empty cell", number, "no image"))
                continue
            try:
                headers.append(images.read_header(table.parent / cells[column]))
            except images.ImageError as error:
                errors.append(RowError(error.kind, number, str(error)))
    raise_errors(table, errors)
    shorter = np.median([min(h.height, h.width) for h in headers])
    size = int(min(shorter, _MAX_SIZE)) // _MULTIPLE * _MULTIPLE
    return max(size, _MULTIPLE)
