"""Bounds of a replay, and whole sets of tensors held against them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.parity.comparison import Row, row

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


def recorded(
    z: Mapping[str, np.ndarray], name: str, ours: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ours and theirs; a thinned recording `NAME@flat13` thins ours alike."""
    if name in z:
        return np.asarray(ours), z[name]
    return np.asarray(ours).ravel()[::13], z[f"{name}@flat13"]


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
