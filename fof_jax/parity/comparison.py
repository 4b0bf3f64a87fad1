"""Rows of a parity table: our arrays against recorded ones; and how it is printed."""

import dataclasses
import os
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared quantity.

    Attributes:
      quantity: its name.
      max_abs: largest absolute difference.
      deviation: the same in the unit of the tolerance.
      tolerance: largest deviation allowed.
      kind: the rule that the tolerance comes from, where the rules have names.
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
        """Whether it is met; a NaN never is."""
        return self.deviation <= self.tolerance


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
      quantity: goes into the row, as `kind` does.
      ours, theirs: arrays of one shape, NumPy's or JAX's.
      tolerance: bound of the largest difference over `scale`.
      scale: None is the largest recorded magnitude; 1 compares absolutely.
      kind: see `Row`.
      where: goes before the index of the largest difference.

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
    """One row for many: the first that is worst by its tolerance, under a name."""
    key = [r.deviation / max(r.tolerance, 1e-30) for r in rows]
    chosen = rows[int(np.argmax(key))]  # argmax returns the first NaN, if any
    return dataclasses.replace(chosen, quantity=quantity)


def table(title: str, rows: list[Row]) -> str:
    """A line a quantity, and a last one that counts."""
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
    """All arrays of a recording, an `.npz`; nothing in it is unpickled.

    Raises:
      ValueError: it is no .npz archive of plain arrays.
      FileNotFoundError: it does not exist.
    """
    try:
        # Opened here: NumPy leaves the file of a bad archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise many kinds
        raise ValueError(
            f"golden: {path} cannot be read as an .npz recording ({error}). Expected "
            "an archive of plain arrays such as paper_a.npz."
        ) from error
