"""Reads, writes and joins predictions.csv.

Columns patient, image, fold, y, pred, p_0 … p_{K-1}, entropy, error; unknown values
are empty. A row with an error has no probabilities.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax import files

UNKNOWN = -1  # an unknown fold, class or prediction
# Probabilities rounded to four decimals sum to 1 within this.
SUM_TOLERANCE = 2e-3
_FIRST, _LAST = ("patient", "image", "fold", "y", "pred"), ("entropy", "error")


class PredictionsError(ValueError):
    """An invalid predictions table."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted probabilities, one row per image (or per patient).

    Attributes:
      patient: patient of each row; "" if unknown.
      image: image of each row; "" on rows of a whole patient.
      fold: fold in which the row was tested; -1 if unknown.
      y: true class index, 0 … K-1; -1 if unknown.
      prob: probabilities of the K classes; NaN on rows with an error.
      error: why a row has no probabilities; "" otherwise.
      notes: caveats to print with metrics computed from this table.
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
        """Argmax of the probabilities (the first of ties); -1 on rows with an error."""
        best = np.argmax(np.where(np.isnan(self.prob), -1.0, self.prob), axis=1)
        return np.where(self.ok, best, UNKNOWN)

    @property
    def entropy(self) -> Float[np.ndarray, " n"]:
        """Entropy in nats, -sum p ln p, of the normalized probabilities."""
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
    """Reads and validates a predictions file.

    `pred` is checked against the probabilities and `entropy` is recomputed, so both
    columns may be empty. Rows with an error are kept, without probabilities;
    `metrics.summarize` leaves them out and counts them.

    Args:
      path: a CSV with the columns above; others are ignored.

    Returns:
      The table.

    Raises:
      PredictionsError: no file, missing columns, no rows, or invalid rows, of which
        the first ten are listed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PredictionsError(
            f"{path} cannot be read ({error}); expected a predictions.csv. Pass the "
            "file that train, predict or eval wrote."
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = list(reader.fieldnames or ())
    classes = 0
    while f"p_{classes}" in header:
        classes += 1
    required = [*_FIRST, *(f"p_{k}" for k in range(max(classes, 2))), *_LAST]
    missing = [name for name in required if name not in header]
    if missing:
        raise PredictionsError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has "
            f"{', '.join(header) or 'none'}. Expected {', '.join(_FIRST)}, p_0 … "
            "p_{K-1} with K >= 2, entropy, error. Rename the columns; leave unknown "
            "values empty."
        )
    invalid: list[str] = []
    rows = []
    first_line: dict[tuple, int] = {}
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise PredictionsError(
            f"{path}, line {reader.line_num} is not CSV ({error}); expected "
            "comma-separated fields. Write the file again."
        ) from error
    for line, row in lines:
        try:
            parsed = _row(row, classes)
        except ValueError as error:
            invalid.append(f"line {line}: {error}")
            continue
        key = parsed[:3]
        if key in first_line:
            invalid.append(
                f"line {line}: patient {key[0]!r}, image {key[1]!r} is also on line "
                f"{first_line[key]}, in the same fold"
            )
        first_line.setdefault(key, line)
        rows.append(parsed)
    if invalid:
        more = f"\n  … and {len(invalid) - 10} more" if len(invalid) > 10 else ""
        raise PredictionsError(
            f"{path} has {len(invalid)} invalid row(s):\n  "
            + "\n  ".join(invalid[:10])
            + more
            + "\nExpected one row per image and fold, y and pred 0 … "
            f"{classes - 1} or empty, probabilities that sum to 1. Correct these rows, "
            "or write a message into their error column to leave them out."
        )
    if not rows:
        raise PredictionsError(
            f"{path} has no rows below its header; expected one per image. Run "
            "predict or train again."
        )
    patient, image, fold, y, prob, message = zip(*rows, strict=True)
    return Predictions(
        patient=patient,
        image=image,
        fold=np.array(fold, np.int64),
        y=np.array(y, np.int64),
        prob=np.array(prob, np.float64),
        error=message,
    )


def write_predictions(
    path: str | Path,
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
) -> None:
    """Writes a predictions file atomically.

    Args:
      path: the CSV.
      table: its rows. Probabilities are written with nine significant digits.
      spread: see `as_csv`.
    """
    files.write_text(Path(path), as_csv(table, spread=spread))


def as_csv(
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
    header: bool = True,
) -> str:
    """Formats a predictions file.

    Args:
      table: its rows.
      spread: std of the probabilities over an ensemble, written to the last columns
        s_0 … s_{K-1}, which `read_predictions` ignores.
      header: whether to write the header line.
    """
    classes = table.prob.shape[1]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    spread_columns = [] if spread is None else [f"s_{k}" for k in range(classes)]
    names = (f"p_{k}" for k in range(classes))
    if header:
        writer.writerow([*_FIRST, *names, *_LAST, *spread_columns])
    pred, entropy = table.pred, table.entropy
    for i in range(len(table)):
        labels = (int(v[i]) for v in (table.fold, table.y, pred))
        row = [table.patient[i], table.image[i]]
        row += ["" if value == UNKNOWN else str(value) for value in labels]
        row += [_format(value) for value in (*table.prob[i], entropy[i])]
        spreads = () if spread is None else spread[i]
        writer.writerow([*row, table.error[i], *map(_format, spreads)])
    return lines.getvalue()


def join(tables: Sequence[Predictions]) -> Predictions:
    """Concatenates tables, for example of several folds.

    Raises:
      PredictionsError: no tables, different numbers of classes, or duplicate rows.
    """
    sizes = sorted({table.prob.shape[1] for table in tables})
    if len(sizes) != 1:
        raise PredictionsError(
            f"The predictions have {sizes or 'no'} classes; expected tables "
            "with the same classes. Evaluate them one by one."
        )
    keys = [
        key
        for table in tables
        for key in zip(table.patient, table.image, table.fold.tolist(), strict=True)
    ]
    if len(set(keys)) < len(keys):
        duplicate = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise PredictionsError(
            f"Patient {duplicate[0]!r}, image {duplicate[1]!r} of one fold is in two "
            "of the predictions files; expected each once. Pass every file once, and "
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


def _format(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


def _row(row: dict, classes: int) -> tuple:
    """Parses one row: patient, image, fold, y, probabilities, error."""
    if None in row or None in row.values():
        raise ValueError("has more or fewer fields than the header")
    patient, image = row["patient"].strip(), row["image"].strip()
    if not patient and not image:
        raise ValueError("has neither patient nor image")
    fold = _integer(row, "fold", None)
    y = _integer(row, "y", classes)
    pred = _integer(row, "pred", classes)
    error = row["error"].strip()
    if error:
        return patient, image, fold, y, [np.nan] * classes, error
    prob = [_probability(row, f"p_{k}") for k in range(classes)]
    # A patient's maximum over images (a row without an image) sums to at most K.
    max_sum = 1.0 if image else float(classes)
    if not 1 - SUM_TOLERANCE <= sum(prob) <= max_sum + SUM_TOLERANCE:
        raise ValueError(f"probabilities sum to {sum(prob):.6g}, expected 1")
    if pred != UNKNOWN and prob[pred] < max(prob) - SUM_TOLERANCE:
        best = prob.index(max(prob))
        raise ValueError(f"pred is {pred}, but p_{best} is the largest probability")
    return patient, image, fold, y, prob, error


def _integer(row: dict, name: str, below: int | None) -> int:
    text = row[name].strip()
    if not text:
        return UNKNOWN
    try:
        value = float(text)  # pandas writes 2.0 in a column with missing values
    except ValueError:
        value = -1.0
    if not 0 <= value < (below or 10**6) or value != int(value):  # NaN too
        limit = f"0 … {below - 1}" if below else "0, 1, 2 …"
        raise ValueError(f"{name} is {text!r}, expected {limit} or empty")
    return int(value)


def _probability(row: dict, name: str) -> float:
    text = row[name].strip()
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:  # NaN too
        raise ValueError(f"{name} is {text!r}, expected a probability, 0 to 1")
    return value
