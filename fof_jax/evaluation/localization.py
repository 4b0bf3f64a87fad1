"""Localization metrics: the class activation map A against the structures' mask.

Computed on test regions whose mask is not empty. A is the map of the true grade,
Eq. (1); M is the patch mask that the method derives from it, Eq. (2).
"""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax import files
from fof_jax.tables.csv_records import TableError, read_records

METRICS = ("pointing", "inside", "area", "iou", "deletion", "insertion")
FILE_NAME = "focus.csv"  # beside a fold's predictions.csv
MIN_COVER = 0.25  # a patch is positive if this fraction of it is on structures
STEPS = 10  # steps of the deletion and insertion curves
_COLUMNS = ("image", "patient", "fold", "grade", *METRICS)

Row = dict[str, Any]


def pointing(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Pointing game: whether the maximum of A lies on a structure.

    Args:
      A: nonnegative maps.
      mask: True on structures.

    Returns:
      1 or 0; with several maximal pixels, the fraction of them on structures. 0 for a
      map that is 0 everywhere.

    Source: Zhang et al., Top-down neural attention by excitation backprop (2018),
    without its tolerance of 15 pixels, which is the width of a structure.
    """
    top = A == A.max(axis=(1, 2), keepdims=True)
    hit = (top & mask).sum(axis=(1, 2)) / top.sum(axis=(1, 2))
    return np.where(A.max(axis=(1, 2)) > 0, hit, 0.0)


def inside(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Fraction of the sum of A that lies on structures; NaN for a map that is 0.

    A uniform map scores the structures' fraction of the area.
    """
    total = A.sum(axis=(1, 2), dtype=np.float64)
    inside_sum = (A * mask).sum(axis=(1, 2), dtype=np.float64)
    return np.where(total > 0, inside_sum / np.where(total > 0, total, 1), np.nan)


def iou(
    keep: Bool[np.ndarray, "B h w"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Intersection over union of M and the structures' patches.

    Args:
      keep: the patch mask M.
      mask: True on structures; a patch is positive if they cover a quarter of it.

    Returns:
      0 … 1; NaN where M and the structures' patches are both empty.
    """
    b, h, w = keep.shape
    p, q = mask.shape[1] // h, mask.shape[2] // w
    positive = mask.reshape(b, h, p, w, q).mean(axis=(2, 4)) >= MIN_COVER
    both = (keep & positive).sum(axis=(1, 2))
    either = (keep | positive).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def ranks(A: Float[np.ndarray, "B H W"], grid: tuple[int, int]) -> np.ndarray:
    """Rank of each patch by its mean of A, 0 the highest; ties in row-major order."""
    (b, height, width), (h, w) = A.shape, grid
    mean = A.reshape(b, h, height // h, w, width // w).mean(axis=(2, 4)).reshape(b, -1)
    return np.argsort(np.argsort(-mean, axis=1, kind="stable"), axis=1).reshape(b, h, w)


def curves(
    probability: Callable[[Bool[np.ndarray, "B h w"]], Float[np.ndarray, " B"]],
    rank: Int[np.ndarray, "B h w"],
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Areas under the deletion and insertion curves of the class probability.

    Args:
      probability: maps visible patches (True) to the probability of the class.
      rank: from `ranks`; the order in which patches are deleted or inserted.

    Returns:
      deletion (lower is better) and insertion (higher is better), integrated by the
      trapezoidal rule over the fraction of patches.

    Source: Petsiuk, Das and Saenko, RISE (BMVC 2018). Hidden patches are 0 in the
    normalized image, as in Eq. (2).
    """
    patches = rank.shape[1] * rank.shape[2]
    counts = np.unique(np.rint(np.linspace(0, patches, STEPS + 1)).astype(int))
    fraction = counts / patches
    deleted = np.stack([probability(rank >= n) for n in counts])  # [steps, B]
    inserted = np.stack([probability(rank < n) for n in counts])
    return (
        np.trapezoid(deleted, fraction, axis=0),
        np.trapezoid(inserted, fraction, axis=0),
    )


def write(path: Path, rows: list[Row]) -> None:
    """Writes one row per region as CSV; no file if there are no rows."""
    if not rows:
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in rows:
        cells = [row[name] for name in _COLUMNS]
        table.writerow(["" if value is None else value for value in cells])
    files.write_text(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """Reads the rows of `write`; an empty list if the file does not exist.

    Raises:
      ValueError: the columns are not those of `write`.
    """
    if not path.exists():
        return []
    remedy = "Remove it, or train the fold again."
    try:
        header, *records = [one.cells for one in read_records(path)] or [()]
    except TableError as error:
        raise ValueError(f"{path} {error} {remedy}") from None
    if header != _COLUMNS:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}, expected "
            f"{', '.join(_COLUMNS)}. {remedy}"
        )
    try:
        return [_row(dict(zip(_COLUMNS, cells, strict=True))) for cells in records]
    except ValueError as error:
        raise ValueError(
            f"{path} has a row that is not of {', '.join(_COLUMNS)} ({error}). {remedy}"
        ) from None


def _row(cells: dict[str, str]) -> Row:
    values = {name: float(cells[name]) if cells[name] else None for name in METRICS}
    for name, value in values.items():
        if value is not None and not np.isfinite(value):
            raise ValueError(f"{name} is {cells[name]}, expected a finite number")
    return cells | {"fold": int(cells["fold"])} | values


def read_next_to(predictions: Sequence[Path]) -> list[Row]:
    """Reads the localization files in the folders of predictions files."""
    return [row for path in predictions for row in read(path.with_name(FILE_NAME))]


def summarize(rows: list[Row]) -> dict[str, Any] | None:
    """Aggregates the metrics over folds, in the form of `metrics.summarize`.

    Returns:
      `regions` (their number), `folds` (fold -> metrics), `mean` and `std` over folds
      (ddof 1), `classes` (grade -> metrics, all folds pooled). None without rows.
    """
    if not rows:
        return None
    folds = {
        str(k): _means([r for r in rows if r["fold"] == k])
        for k in sorted({r["fold"] for r in rows})
    }
    defined = {
        m: [fold[m] for fold in folds.values() if fold[m] is not None] for m in METRICS
    }
    return {
        "regions": len(rows),
        "folds": folds,
        "mean": {m: float(np.mean(v)) if v else None for m, v in defined.items()},
        "std": {
            m: float(np.std(v, ddof=1)) if len(v) > 1 else None
            for m, v in defined.items()
        },
        "classes": {
            grade: _means([r for r in rows if r["grade"] == grade])
            for grade in sorted({r["grade"] for r in rows})
        },
    }


def _means(rows: list[Row]) -> dict[str, Any]:
    defined = {m: [r[m] for r in rows if r[m] is not None] for m in METRICS}
    return {"regions": len(rows)} | {
        m: float(np.mean(v)) if v else None for m, v in defined.items()
    }
