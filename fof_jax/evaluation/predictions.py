"""Reads, writes and joins predictions.csv.

Columns patient, image, fold, y, pred, pred_index, p_CLASS for each class, entropy,
error; unknown values are empty. `y` and `pred` are names of classes, `pred_index` is
the position of `pred`. Training's own tables have the numbers 0 … K-1 for the names,
and no `pred_index`. A row with an error has no probabilities.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax import files
from fof_jax.evaluation import dataframe, prediction_rows
from fof_jax.evaluation.prediction_rows import PREFIX, UNKNOWN
from fof_jax.tables.csv_records import Record, TableError, read_records

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
      classes: names of the K classes; None where they are only numbered.
    """

    patient: tuple[str, ...]
    image: tuple[str, ...]
    fold: Int[np.ndarray, " n"]
    y: Int[np.ndarray, " n"]
    prob: Float[np.ndarray, "n K"]
    error: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

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

    def to_dataframe(self) -> Any:
        """A pandas.DataFrame, see `dataframe.of_rows`."""
        return dataframe.of_rows(**vars(self), pred=self.pred, entropy=self.entropy)

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
            classes=self.classes,
        )


def read_predictions(path: str | Path) -> Predictions:
    """Reads and validates a predictions file.

    `pred` is checked against the probabilities and `entropy` is recomputed, so both
    columns may be empty. Rows with an error are kept, without probabilities;
    `metrics.summarize` leaves them out and counts them.

    Args:
      path: a CSV with `y` and two or more columns p_CLASS; the other columns above
        are optional, further ones are ignored.

    Returns:
      The table; rows without a column `image` are named by file and line.

    Raises:
      PredictionsError: no file, missing columns, no rows, or invalid rows, of which
        the first ten are listed.
    """
    path = Path(path)
    try:
        columns, *records = read_records(path) or [Record(1, 1, ())]
    except TableError as error:
        raise PredictionsError(
            f"{path} {error} Expected a predictions.csv: pass the file that train, "
            "predict or eval wrote, or write it again."
        ) from error
    names = [cell.strip() for cell in columns.cells]
    try:
        header = prediction_rows.read_header(names)
    except ValueError as error:
        raise PredictionsError(f"{path} {error}") from None
    invalid: list[str] = []
    rows = []
    first_line: dict[tuple, int] = {}
    for line, cells in [(record.line, record.cells) for record in records]:
        try:
            if len(cells) != len(names):
                raise ValueError("has more or fewer fields than the header")
            row = dict(zip(names, cells, strict=True))
            parsed = prediction_rows.parse_row(
                row, header, unnamed=f"{path}, line {line}"
            )
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
            + "\nExpected one row per image and fold, y and pred "
            f"{prediction_rows.describe_classes(header)} or empty, probabilities that "
            "sum to 1. Correct these rows, or write a message into their error column "
            "to leave them out."
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
        classes=None if header.numbered else header.classes,
    )


def write_predictions(
    path: str | Path,
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
    abstain: Sequence[bool] | None = None,
) -> None:
    """Writes a predictions file atomically.

    Args:
      path: the CSV.
      table: its rows; with `classes`, columns and grades have their names.
        Probabilities are written with nine significant digits.
      spread, abstain: see `as_csv`.
    """
    files.write_text(Path(path), as_csv(table, spread=spread, abstain=abstain))


def as_csv(
    table: Predictions,
    *,
    spread: Float[np.ndarray, "n K"] | None = None,
    warning: Sequence[str] | None = None,
    abstain: Sequence[bool] | None = None,
    header: bool = True,
) -> str:
    """Formats a predictions file.

    Args:
      table: its rows.
      spread: std of the probabilities over an ensemble, written to the last columns
        s_CLASS, which `read_predictions` ignores.
      warning: what is odd about an image that is graded, written to the column
        `warning` behind `error`; see `read_warnings`.
      abstain: rows whose prediction is not answered, 1 in the column `abstain`, else 0
        (empty on rows with an error); None writes no column.
      header: whether to write the header line.
    """
    named = table.classes is not None
    classes = table.classes or [str(k) for k in range(table.prob.shape[1])]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    if header:
        index = ["pred_index"] * named
        spreads = [] if spread is None else [f"s_{name}" for name in classes]
        probabilities = [PREFIX + name for name in classes]
        odd = [] if warning is None else ["warning"]
        odd += [] if abstain is None else ["abstain"]
        writer.writerow([*_FIRST, *index, *probabilities, *_LAST, *odd, *spreads])
    pred, entropy = table.pred, table.entropy

    def text(index: int) -> str:
        return "" if index == UNKNOWN else str(index)

    def label(index: int) -> str:
        return "" if index == UNKNOWN else classes[index]

    for i in range(len(table)):
        row = [table.patient[i], table.image[i], text(int(table.fold[i]))]
        row += [label(int(table.y[i])), label(int(pred[i]))]
        row += [text(int(pred[i]))] * named
        row += [_format(value) for value in (*table.prob[i], entropy[i])]
        deviations = () if spread is None else spread[i]
        odd = [] if warning is None else [warning[i]]
        if abstain is not None:
            odd.append("" if table.error[i] else str(int(abstain[i])))
        writer.writerow([*row, table.error[i], *odd, *map(_format, deviations)])
    return lines.getvalue()


def read_warnings(path: Path) -> list[str]:
    """The warnings of a predictions file, each with the name of its image."""
    header, *rows = [record.cells for record in read_records(path)]
    if "warning" not in header:
        return []
    at, name = header.index("warning"), header.index("image")
    return [f"{row[name]}: {row[at]}" for row in rows if row[at]]


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
    names = {table.classes for table in tables}
    if len(names) > 1:
        shown = " and ".join(
            sorted(", ".join(n) if n else "only numbers" for n in names)
        )
        raise PredictionsError(
            f"The predictions name their classes differently: {shown}. Expected the "
            "same names in the same order. Evaluate the files one by one."
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
        classes=tables[0].classes,
    )


def _format(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"
