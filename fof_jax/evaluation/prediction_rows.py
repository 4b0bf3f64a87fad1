"""Header and cells of a predictions table: which columns are classes, what a row says.

The columns of probabilities are p_CLASS. Their names are the classes' names, or their
numbers 0 … K-1, as training writes them. `y` and `pred` name one of these columns, so
that "2" is never the third class where the classes are called 2, 3 and 4.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from fof_jax.tables.csv_records import unknown

UNKNOWN = -1  # an unknown fold, class or prediction
# Probabilities rounded to four decimals sum to 1 within this.
SUM_TOLERANCE = 2e-3
PREFIX = "p_"  # of a column of probabilities


@dataclasses.dataclass(frozen=True)
class Header:
    """Classes of a table, and the optional columns that it has.

    Attributes:
      classes: what follows `PREFIX` in the names of the columns of probabilities.
      numbered: whether these are the numbers 0 … K-1, not names.
      columns: all columns.
    """

    classes: tuple[str, ...]
    numbered: bool
    columns: frozenset[str]


def read_header(columns: Sequence[str]) -> Header:
    """Finds the classes of a table.

    Raises:
      ValueError: a missing column, fewer than two classes, a column that occurs twice,
        or numbered columns beside named ones.
    """
    names = [c.removeprefix(PREFIX) for c in columns if c.startswith(PREFIX)]
    digits = {name for name in names if name.isascii() and name.isdigit()}
    missing = ["y"] * ("y" not in columns)
    if len(names) < 2:
        missing += [f"{PREFIX}{k}" for k in range(2) if str(k) not in names]
    listed = ", ".join(columns) or "none"
    if missing:
        raise ValueError(
            f"lacks the column(s) {', '.join(missing)}; it has {listed}. Expected y "
            f"and a probability per class, {PREFIX}II, {PREFIX}III, … or {PREFIX}0, "
            f"{PREFIX}1, …; patient, image, fold, pred, entropy and error are optional."
        )
    twice = sorted({c for c in columns if c and columns.count(c) > 1})
    if twice:
        raise ValueError(
            f"has the column(s) {', '.join(twice)} twice. Expected each once. Remove "
            "or rename one of them."
        )
    numbers = [str(k) for k in range(len(names))]
    # Classes may be called 0 and 1, too: a table of names has this column.
    named = "pred_index" in columns
    numbered = not named and set(names) == set(numbers)
    if {"0", "1"} <= digits and not named and not numbered:
        extra = [PREFIX + n for n in names if n not in numbers[: len(digits)]]
        raise ValueError(
            f"has the columns {', '.join(extra)} beside {PREFIX}0, {PREFIX}1, …; "
            f"expected {PREFIX}0 … {PREFIX}{len(names) - 1}, or {PREFIX}NAME for every "
            "class. Rename the columns that are not probabilities of a class."
        )
    return Header(tuple(numbers if numbered else names), numbered, frozenset(columns))


def parse_row(
    row: Mapping[str, str], header: Header, *, unnamed: str
) -> tuple[str, str, int, int, list[float], str]:
    """Parses one row: patient, image, fold, y, probabilities, error.

    Args:
      row: the cells; a column of `header` that is absent is "".
      header: of `read_header`.
      unnamed: name of the image where the table has no column for it.

    Raises:
      ValueError: an invalid cell, or cells that contradict each other.
    """
    patient, image = row.get("patient", "").strip(), row.get("image", "").strip()
    patient = "" if unknown(patient) else patient
    if "image" not in header.columns:
        image = unnamed
    if not patient and not image:
        raise ValueError("has neither patient nor image")
    fold = _integer(row.get("fold", ""), "fold")
    y = _class_index(row["y"], "y", header)
    pred = _class_index(row.get("pred", ""), "pred", header)
    error = row.get("error", "").strip()
    if error:
        return patient, image, fold, y, [math.nan] * len(header.classes), error
    prob = [_probability(row, PREFIX + name) for name in header.classes]
    # A patient's maximum over images (a row without an image) sums to at most K.
    max_sum = 1.0 if image else float(len(prob))
    if not 1 - SUM_TOLERANCE <= sum(prob) <= max_sum + SUM_TOLERANCE:
        raise ValueError(f"probabilities sum to {sum(prob):.6g}, expected 1")
    if pred != UNKNOWN and prob[pred] < max(prob) - SUM_TOLERANCE:
        best = header.classes[prob.index(max(prob))]
        raise ValueError(
            f"pred is {header.classes[pred]}, but {PREFIX}{best} is the largest "
            "probability"
        )
    return patient, image, fold, y, prob, error


def describe_classes(header: Header) -> str:
    """The classes for a message: their names, or 0 … K-1."""
    if header.numbered:
        return f"0 … {len(header.classes) - 1}"
    return ", ".join(header.classes)


def _class_index(text: str, column: str, header: Header) -> int:
    text = text.strip()
    if not text:
        return UNKNOWN
    if text not in header.classes:
        # pandas writes 2.0 in a column with missing values
        whole = text.removesuffix(".0")
        if whole not in header.classes:
            raise ValueError(
                f"{column} is {text!r}, expected {describe_classes(header)} or empty"
            )
        text = whole
    return header.classes.index(text)


def _integer(text: str, column: str) -> int:
    text = text.strip()
    if not text:
        return UNKNOWN
    try:
        value = float(text)  # pandas writes 2.0 in a column with missing values
    except ValueError:
        value = -1.0
    if not 0 <= value < 10**6 or value != int(value):  # NaN too
        raise ValueError(f"{column} is {text!r}, expected 0, 1, 2 … or empty")
    return int(value)


def _probability(row: Mapping[str, str], column: str) -> float:
    text = row[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:  # NaN too
        raise ValueError(f"{column} is {text!r}, expected a probability, 0 to 1")
    return value
