"""The one form of predictions.csv: its record, reading, writing, joining.

Columns patient, image, fold, y, pred, p_0 … p_{K-1}, entropy, error; what is not
known is empty. A row with an error has no probabilities.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

UNKNOWN = -1  # a fold, a class or a prediction that is not known
# Files with four decimals still sum to 1 within this.
SUM_TOLERANCE = 2e-3
_BEFORE, _AFTER = ("patient", "image", "fold", "y", "pred"), ("entropy", "error")


class PredictionsError(ValueError):
    """A predictions table that cannot be used."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted probabilities, one row an image (or a patient).

    Attributes:
      patient: patient of each row; "" where unknown.
      image: image of each row; "" on rows that stand for a whole patient.
      fold: fold in which the row was tested; -1 where unknown.
      y: class index of the truth, 0 … K-1; -1 where unknown.
      prob: probabilities of the K classes; NaN on rows with an error.
      error: why a row has no probabilities; "" where it has them.
      notes: what a reader of figures made from this table has to know.
    """

    patient: tuple[str, ...]
    image: tuple[str, ...]
    fold: Int[np.ndarray, " n"]
    y: Int[np.ndarray, " n"]
    prob: Float[np.ndarray, "n K"]
    error: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    @property
    def ok(self) -> Bool[np.ndarray, " n"]:
        """True on rows that have probabilities."""
        return np.array([not message for message in self.error], bool)

    @property
    def pred(self) -> Int[np.ndarray, " n"]:
        """The class of the largest probability (the first of equals); -1 on errors."""
        best = np.argmax(np.where(np.isnan(self.prob), -1.0, self.prob), axis=1)
        return np.where(self.ok, best, UNKNOWN)

    @property
    def entropy(self) -> Float[np.ndarray, " n"]:
        """-sum p ln p in nats, of the probabilities divided by their sum."""
        p = self.prob / np.sum(self.prob, axis=1, keepdims=True)
        return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)

    def rows(self, keep: Bool[np.ndarray, " n"]) -> "Predictions":
        """The rows where `keep` is True."""
        at = np.flatnonzero(keep)
        return Predictions(
            patient=tuple(self.patient[i] for i in at),
            image=tuple(self.image[i] for i in at),
            fold=self.fold[at],
            y=self.y[at],
            prob=self.prob[at],
            error=tuple(self.error[i] for i in at),
            notes=self.notes,
        )


def read_predictions(path: str | Path) -> Predictions:
    """Read a predictions file and check it whole.

    `pred` is checked against the probabilities and `entropy` is computed anew, so
    both columns may be empty. Rows with an error are kept, without probabilities;
    `fof_jax.metrics` leaves them out and counts them.

    Args:
      path: a CSV of the one form; other columns are ignored.

    Returns:
      The table.

    Raises:
      PredictionsError: no file, missing columns, no rows, or rows that are wrong;
        the first ten are listed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise PredictionsError(
            f"{path} cannot be read ({fault}); expected a predictions.csv. Pass the "
            "file that train, predict or eval has written."
        ) from fault
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = list(reader.fieldnames or ())
    classes = 0
    while f"p_{classes}" in header:
        classes += 1
    wanted = [*_BEFORE, *(f"p_{k}" for k in range(max(classes, 2))), *_AFTER]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise PredictionsError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has "
            f"{', '.join(header) or 'none'}. Expected {', '.join(_BEFORE)}, p_0 … "
            "p_{K-1} with K >= 2, entropy, error. Name the columns so; what is not "
            "known stays empty."
        )
    faults: list[str] = []
    rows = []
    seen: dict[tuple, int] = {}
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as fault:
        raise PredictionsError(
            f"{path}, line {reader.line_num} is not CSV ({fault}); expected fields "
            "divided by commas. Write the file again."
        ) from fault
    for line, row in lines:
        try:
            parsed = _row(row, classes)
        except ValueError as fault:
            faults.append(f"line {line}: {fault}")
            continue
        key = parsed[:3]
        if key in seen:
            faults.append(
                f"line {line}: patient {key[0]!r}, image {key[1]!r} stands on line "
                f"{seen[key]} already, in the same fold"
            )
        seen.setdefault(key, line)
        rows.append(parsed)
    if faults:
        more = f"\n  … and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise PredictionsError(
            f"{path} has {len(faults)} wrong row(s):\n  "
            + "\n  ".join(faults[:10])
            + more
            + "\nExpected one row an image and fold, y and pred 0 … "
            f"{classes - 1} or empty, probabilities that sum to 1. Mend these rows, "
            "or write a message into their error column to leave them out."
        )
    if not rows:
        raise PredictionsError(
            f"{path} has no rows below its header; expected one an image. Run "
            "predict or train again."
        )
    patient, image, fold, y, prob, error = zip(*rows, strict=True)
    return Predictions(
        patient=patient,
        image=image,
        fold=np.array(fold, np.int64),
        y=np.array(y, np.int64),
        prob=np.array(prob, np.float64),
        error=error,
    )


def write_predictions(
    path: str | Path,
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
) -> None:
    """Write a predictions file: whole, or not at all.

    Args:
      path: the CSV; its folder exists.
      table: what to write. Probabilities keep nine significant digits.
      spread: see `as_csv`.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(as_csv(table, spread=spread), encoding="utf-8", newline="")
    os.replace(unfinished, path)


def as_csv(
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
    header: bool = True,
) -> str:
    """The text of a predictions file.

    Args:
      table: its rows.
      spread: deviation of the probabilities over an ensemble, for columns s_0 …
        s_{K-1} behind the others; `read_predictions` passes them over.
      header: whether the names of the columns stand above.
    """
    classes = table.prob.shape[1]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    beside = [] if spread is None else [f"s_{k}" for k in range(classes)]
    names = (f"p_{k}" for k in range(classes))
    if header:
        writer.writerow([*_BEFORE, *names, *_AFTER, *beside])
    pred, entropy = table.pred, table.entropy
    for i in range(len(table)):
        known = (int(v[i]) for v in (table.fold, table.y, pred))
        row = [table.patient[i], table.image[i]]
        row += ["" if value == UNKNOWN else str(value) for value in known]
        figures = (*table.prob[i], entropy[i])
        row += [_written(value) for value in figures]
        last = () if spread is None else spread[i]
        writer.writerow([*row, table.error[i], *map(_written, last)])
    return lines.getvalue()


def join(tables: Sequence[Predictions]) -> Predictions:
    """Put tables (one a fold, say) under one another.

    Raises:
      PredictionsError: no tables, different numbers of classes, or a row that two of
        them have.
    """
    sizes = sorted({table.prob.shape[1] for table in tables})
    if len(sizes) != 1:
        raise PredictionsError(
            f"The predictions have {sizes or 'no'} classes; expected tables of one "
            "model's classes. Evaluate them one by one."
        )
    keys = [
        key
        for table in tables
        for key in zip(table.patient, table.image, table.fold.tolist(), strict=True)
    ]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise PredictionsError(
            f"Patient {twice[0]!r}, image {twice[1]!r} of one fold stands in two of "
            "the predictions files; expected each once. Pass every file once, and "
            "only files of one run."
        )
    return Predictions(
        patient=tuple(name for table in tables for name in table.patient),
        image=tuple(name for table in tables for name in table.image),
        fold=np.concatenate([table.fold for table in tables]),
        y=np.concatenate([table.y for table in tables]),
        prob=np.concatenate([table.prob for table in tables]),
        error=tuple(text for table in tables for text in table.error),
        notes=tuple(dict.fromkeys(note for t in tables for note in t.notes)),
    )


def _written(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


def _row(row: dict, classes: int) -> tuple:
    """One line: patient, image, fold, y, probabilities, error."""
    if None in row or None in row.values():
        raise ValueError("has more or fewer fields than the header")
    patient, image = row["patient"].strip(), row["image"].strip()
    if not patient and not image:
        raise ValueError("has neither patient nor image")
    fold = _whole(row, "fold", None)
    y = _whole(row, "y", classes)
    pred = _whole(row, "pred", classes)
    error = row["error"].strip()
    if error:
        return patient, image, fold, y, [np.nan] * classes, error
    prob = [_share(row, f"p_{k}") for k in range(classes)]
    # A patient's maximum over images (no image of its own) may sum to up to K.
    most = 1.0 if image else float(classes)
    if not 1 - SUM_TOLERANCE <= sum(prob) <= most + SUM_TOLERANCE:
        raise ValueError(f"probabilities sum to {sum(prob):.6g}, expected 1")
    if pred != UNKNOWN and prob[pred] < max(prob) - SUM_TOLERANCE:
        best = prob.index(max(prob))
        raise ValueError(f"pred is {pred}, but p_{best} is the largest probability")
    return patient, image, fold, y, prob, error


def _whole(row: dict, name: str, below: int | None) -> int:
    text = row[name].strip()
    if not text:
        return UNKNOWN
    try:
        value = float(text)  # pandas writes 2.0 where a column has gaps
    except ValueError:
        value = -1.0
    if not 0 <= value < (below or 10**6) or value != int(value):  # NaN too
        limit = f"0 … {below - 1}" if below else "0, 1, 2 …"
        raise ValueError(f"{name} is {text!r}, expected {limit} or empty")
    return int(value)


def _share(row: dict, name: str) -> float:
    text = row[name].strip()
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:  # NaN too
        raise ValueError(f"{name} is {text!r}, expected a probability, 0 to 1")
    return value
