"""Rows of a parity table: our arrays against recorded ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# Largest difference, relative to what the comment names. A float32 run of the authors'
# own code on another machine meets them with room to spare.
TOLERANCES = {
    "forward": 5e-6,  # activations … projections: the array's maximum
    "component": 2e-5,  # projection, scaled and pooled map at step 0: the maximum
    "component_later": 5e-5,  # the same at any step
    "score": 3e-5,  # the class score, absolute: it can pass near 0
    "loss": 3e-5,  # the recorded value
    "gradient": 1e-4,  # the tensor's maximum, or 1e-3 of the largest gradient of all
    "gradient_fine": 5e-4,  # the same on FINE_GRID patches and more
    "parameter": 1e-6,  # absolute, after 1 and 5 steps, at rates to 1e-4
    "parameter_fast": 1e-5,  # the same at larger rates
    "rate": 1e-6,  # the largest learning rate of the schedule
    "ema": 1e-6,  # the array's maximum
    "metric": 1e-12,  # absolute
    "mask": 0.0,  # patches that differ
}
FINE_GRID = 4096
# Adam turns rounding noise in a gradient near its eps into a move of up to the rate.
LOOSE_ELEMENTS = 5
GRADIENT_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a parity table.

    Attributes:
      quantity: what is compared.
      max_abs: largest absolute difference.
      max_rel: the figure that is held against the tolerance.
      tolerance: its bound.
      ok: whether it keeps it.
      where: step, tensor or index of the largest difference.
    """

    quantity: str
    max_abs: float
    max_rel: float
    tolerance: float
    ok: bool
    where: str


def row(
    quantity: str,
    ours: Any,
    theirs: Any,
    tolerance: float,
    *,
    scale: float | None = None,
    where: str = "",
) -> Row:
    """Compares two arrays.

    Args:
      quantity: goes into the row.
      ours, theirs: arrays of one shape, NumPy's or JAX's.
      tolerance: bound of the largest difference over `scale`.
      scale: None is the largest recorded magnitude; 1 compares absolutely.
      where: goes before the index of the largest difference.

    Raises:
      ValueError: the shapes differ.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{quantity} {where}: got shape {ours.shape}, the recording has "
            f"{theirs.shape}."
        )
    difference = np.abs(ours - theirs)
    worst = float(difference.max(initial=0.0))
    if scale is None:
        scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    at = ""
    if difference.size > 1:
        index = np.unravel_index(np.argmax(difference), difference.shape)
        at = "[" + ",".join(map(str, index)) + "]"
    rel = worst / scale
    # NaN compares false: it is not ok.
    return Row(quantity, worst, rel, tolerance, bool(rel <= tolerance), where + at)


def worst(rows: list[Row], quantity: str) -> Row:
    """One row for many: the first that fails worst, under another name."""
    key = [r.max_rel / max(r.tolerance, 1e-30) for r in rows]
    chosen = rows[int(np.argmax(key))]  # argmax returns the first NaN, if any
    return dataclasses.replace(chosen, quantity=quantity, ok=all(r.ok for r in rows))


def recorded(
    z: Mapping[str, np.ndarray], name: str, ours: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ours and theirs; a thinned recording `NAME@flat13` thins ours alike."""
    if name in z:
        return np.asarray(ours), z[name]
    return np.asarray(ours).ravel()[::13], z[f"{name}@flat13"]


def has(z: Mapping[str, np.ndarray], name: str) -> bool:
    """Whether a recording holds the array, whole or thinned."""
    return name in z or f"{name}@flat13" in z


def tensors(
    z: Mapping[str, np.ndarray],
    prefix: str,
    ours: Mapping[str, np.ndarray],
    *,
    tolerance: float,
    scale_floor: float = 0.0,
    absolute: bool = False,
    leave_out: tuple[str, ...] = (),
) -> list[Row]:
    """Compares every recorded tensor under a prefix with ours of that name.

    Args:
      z: the recording.
      prefix: "t0/grad/" and the like.
      ours: by state-dict name.
      tolerance: bound.
      scale_floor: a tensor is compared with its own recorded maximum, or this share of
        the largest of all recorded under the prefix.
      absolute: compare differences as they are.
      leave_out: endings of names not compared.

    Raises:
      ValueError: the names differ.
    """
    names = [
        k[len(prefix) :].removesuffix("@flat13") for k in z if k.startswith(prefix)
    ]
    if set(names) != set(ours):
        odd = sorted(set(names) ^ set(ours))
        raise ValueError(
            f"{prefix}: the names of tensors differ from the recording's: {odd[:3]}."
        )
    names = [n for n in names if not n.endswith(leave_out)] if leave_out else names
    pairs = {n: recorded(z, prefix + n, ours[n]) for n in names}
    largest = max(float(np.abs(b).max(initial=0.0)) for _, b in pairs.values())
    rows = []
    for name, (a, b) in pairs.items():
        scale = max(float(np.abs(b).max(initial=0.0)), scale_floor * largest)
        scale = 1.0 if absolute else scale or 1.0
        rows.append(row(prefix, a, b, tolerance, scale=scale, where=name))
    return rows
