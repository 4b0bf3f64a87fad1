"""Focus as a number: where the map A lies, against the true mask of the structures.

Measured on the test regions whose store has a mask with something in it; the others
have nothing to point at. A is the evidence for the true grade, as in Eq. (1); M is
what the method keeps of it, as in Eq. (2).
"""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax import files

FIGURES = ("pointing", "inside", "area", "iou", "deletion", "insertion")
FILE = "focus.csv"  # beside a fold's predictions.csv
COVERED = 0.25  # share of a patch that makes it one of the structures' patches
STEPS = 10  # of a deletion or insertion curve
_COLUMNS = ("image", "patient", "fold", "grade", *FIGURES)

Row = dict[str, Any]


def pointing(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Whether the highest point of A is on a structure (the pointing game).

    Args:
      A: maps, 0 or more.
      mask: True on structures.

    Returns:
      1 or 0; of several highest pixels the share on structures. A map that is 0
      everywhere points at nothing: 0.

    Source: Zhang et al., Top-down neural attention by excitation backprop (2018),
    without its tolerance of 15 pixels: a structure is no wider than that.
    """
    top = A == A.max(axis=(1, 2), keepdims=True)
    hit = (top & mask).sum(axis=(1, 2)) / top.sum(axis=(1, 2))
    return np.where(A.max(axis=(1, 2)) > 0, hit, 0.0)


def inside(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Share of the sum of A that lies on structures; NaN for a map that is 0.

    A map that knows nothing has the structures' share of the area.
    """
    total = A.sum(axis=(1, 2), dtype=np.float64)
    within = (A * mask).sum(axis=(1, 2), dtype=np.float64)
    return np.where(total > 0, within / np.where(total > 0, total, 1), np.nan)


def iou(
    keep: Bool[np.ndarray, "B h w"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Intersection over union of M with the structures' patches.

    Args:
      keep: M.
      mask: True on structures; a patch is theirs if they cover a quarter of it.

    Returns:
      0 … 1; NaN where no patch is kept and none is the structures'.
    """
    b, h, w = keep.shape
    p, q = mask.shape[1] // h, mask.shape[2] // w
    theirs = mask.reshape(b, h, p, w, q).mean(axis=(2, 4)) >= COVERED
    both = (keep & theirs).sum(axis=(1, 2))
    either = (keep | theirs).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def ranks(A: Float[np.ndarray, "B H W"], grid: tuple[int, int]) -> np.ndarray:
    """Place of each patch, 0 first, by the mean of A; of equals the upper left."""
    (b, height, width), (h, w) = A.shape, grid
    mean = A.reshape(b, h, height // h, w, width // w).mean(axis=(2, 4)).reshape(b, -1)
    return np.argsort(np.argsort(-mean, axis=1, kind="stable"), axis=1).reshape(b, h, w)


def curves(
    probability: Callable[[Bool[np.ndarray, "B h w"]], Float[np.ndarray, " B"]],
    rank: Int[np.ndarray, "B h w"],
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Areas under the deletion and the insertion curve of the class probability.

    Args:
      probability: of the class, when only the True patches are shown.
      rank: of `ranks`: the order in which patches are taken away or put in.

    Returns:
      deletion (lower is better: what A ranks first carries the decision) and
      insertion (higher is better), by trapezoids over the share of patches.

    Source: Petsiuk, Das and Saenko, RISE (BMVC 2018). Hidden patches are 0 in the
    normalised image, as in Eq. (2).
    """
    patches = rank.shape[1] * rank.shape[2]
    counts = np.unique(np.rint(np.linspace(0, patches, STEPS + 1)).astype(int))
    share = counts / patches
    without = np.stack([probability(rank >= n) for n in counts])  # [steps, B]
    within = np.stack([probability(rank < n) for n in counts])
    return np.trapezoid(without, share, axis=0), np.trapezoid(within, share, axis=0)


def write(path: Path, rows: list[Row]) -> None:
    """Writes the rows of `measure` as CSV; nothing where there are none."""
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
    """The rows that `write` wrote; none where there is no such file.

    Raises:
      ValueError: it is another file.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != _COLUMNS:
            raise ValueError(
                f"{path} has the columns {table.fieldnames}, expected "
                f"{', '.join(_COLUMNS)}. Remove it, or train the fold again."
            )
        return [
            row
            | {"fold": int(row["fold"])}
            | {k: float(row[k]) if row[k] else None for k in FIGURES}
            for row in table
        ]


def beside(predictions: Sequence[Path]) -> list[Row]:
    """The rows of the files that stand beside predictions files, where there are."""
    return [row for path in predictions for row in read(path.with_name(FILE))]


def summarise(rows: list[Row]) -> dict[str, Any] | None:
    """Figures of all folds together, in the form of `metrics.summarise`.

    Returns:
      `regions` (their number), `folds` (fold -> figures), `mean` and `std` of the
      folds (ddof 1), `classes` (grade -> figures, all folds together). None without
      rows.
    """
    if not rows:
        return None
    folds = {
        str(k): _means([r for r in rows if r["fold"] == k])
        for k in sorted({r["fold"] for r in rows})
    }
    known = {
        f: [one[f] for one in folds.values() if one[f] is not None] for f in FIGURES
    }
    return {
        "regions": len(rows),
        "folds": folds,
        "mean": {f: float(np.mean(v)) if v else None for f, v in known.items()},
        "std": {
            f: float(np.std(v, ddof=1)) if len(v) > 1 else None
            for f, v in known.items()
        },
        "classes": {
            grade: _means([r for r in rows if r["grade"] == grade])
            for grade in sorted({r["grade"] for r in rows})
        },
    }


def _means(rows: list[Row]) -> dict[str, Any]:
    each = {f: [r[f] for r in rows if r[f] is not None] for f in FIGURES}
    return {"regions": len(rows)} | {
        f: float(np.mean(v)) if v else None for f, v in each.items()
    }
