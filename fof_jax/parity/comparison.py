"""Compares arrays with recorded ones and formats the parity table."""

import dataclasses
import os
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared quantity.

    Attributes:
      quantity: name of the quantity.
      max_abs: largest absolute difference.
      deviation: largest difference in the unit of the tolerance.
      tolerance: largest allowed deviation.
      kind: name of the tolerance rule, if the rules have names.
      where: step, tensor or index of the largest difference.
    """

    quantity: str
    max_abs: float
    deviation: float
    tolerance: float
    kind: str = ""
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether the deviation is within tolerance; False for NaN."""
        return bool(self.deviation <= self.tolerance)


def row(
    quantity: str,
    ours: Any,
    theirs: Any,
    tolerance: float,
    *,
    scale: float | None = None,
    kind: str = "",
    where: str = "",
) -> Row:
    """Compares two arrays.

    Args:
      quantity, kind: see `Row`.
      ours, theirs: computed and recorded array, of the same shape.
      tolerance: bound of the largest difference divided by `scale`.
      scale: None is the largest recorded magnitude; 1 compares absolutely.
      where: prefix of the index of the largest difference.

    Raises:
      ValueError: the shapes differ.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"parity: {quantity} {where} has shape {ours.shape} here and "
            f"{theirs.shape} in the recording. Was it made with other sizes than its "
            "cfg/ says?"
        )
    difference = np.abs(ours - theirs)
    worst = float(difference.max(initial=0.0))
    if scale is None:
        scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    at = ""
    if difference.size > 1:
        index = np.unravel_index(np.argmax(difference), difference.shape)
        at = "[" + ",".join(map(str, index)) + "]"
    return Row(quantity, worst, worst / scale, tolerance, kind, where + at)


def worst(rows: list[Row], quantity: str) -> Row:
    """Reduces rows to the one with the largest deviation relative to its tolerance."""
    ratio = [r.deviation / max(r.tolerance, 1e-30) for r in rows]
    chosen = rows[int(np.argmax(ratio))]  # argmax returns the first NaN, if any
    return dataclasses.replace(chosen, quantity=quantity)


def table(title: str, rows: list[Row]) -> str:
    """Formats one line per quantity, and a line with the number within tolerance."""
    width = max(len(row.quantity) for row in rows)
    head = (
        f"{'quantity':{width}}  {'max abs':>9}  {'deviation':>9}  {'tolerance':>9}  ok"
    )
    lines = [
        f"{row.quantity:{width}}  {row.max_abs:9.2e}  {row.deviation:9.2e}  "
        f"{row.tolerance:9.0e}  {'ok' if row.ok else f'FAILS {row.where}'}".rstrip()
        for row in rows
    ]
    failed = sum(not row.ok for row in rows)
    last = f"{title}: {len(rows) - failed} of {len(rows)} quantities within tolerance"
    return "\n".join([title, head, *lines, last, ""])


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` recording, without unpickling.

    Raises:
      ValueError: not an .npz archive of plain arrays.
      FileNotFoundError: the file does not exist.
    """
    try:
        # Opened here because NumPy does not close the file of an invalid archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise many types
        raise ValueError(
            f"golden: {path} cannot be read as an .npz recording ({error}). Expected "
            "an archive of plain arrays such as paper_a.npz."
        ) from error
