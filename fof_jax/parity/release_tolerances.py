"""Tolerances of a replay, and comparison of sets of tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.parity.comparison import Row, row

# Largest difference, relative to the quantity in the comment. A float32 run of the
# authors' code on another machine is well within these.
TOLERANCES = {
    "forward": 5e-6,  # activations … projections: the array's maximum
    "component": 2e-5,  # projection, scaled and pooled map at step 0: the maximum
    "component_later": 5e-5,  # as "component", at any step
    "score": 3e-5,  # absolute, because the class score can be near 0
    "loss": 3e-5,  # the recorded value
    "gradient": 1e-4,  # the tensor's maximum, at least 1e-3 of the largest gradient
    "gradient_fine": 5e-4,  # as "gradient", on FINE_GRID patches or more
    "parameter": 1e-6,  # absolute, after 1 and 5 steps, at rates to 1e-4
    "parameter_fast": 1e-5,  # as "parameter", at larger rates
    "rate": 1e-6,  # the peak learning rate
    "ema": 1e-6,  # the array's maximum
    "metric": 1e-12,  # absolute
    "mask": 0.0,  # patches that differ
}
FINE_GRID = 4096
# Adam turns rounding noise in a gradient near its eps into a step of up to the rate.
MAX_OUTLIERS = 5
GRADIENT_FLOOR = 1e-3


def recorded(
    z: Mapping[str, np.ndarray], name: str, ours: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Computed and recorded array; `NAME@flat13` has every 13th element of both."""
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
    """Compares every recorded tensor under a prefix with the computed one.

    Args:
      z: the recording.
      prefix: for example "t0/grad/".
      ours: computed tensors by state-dict name.
      tolerance: bound.
      scale_floor: differences are divided by the tensor's recorded maximum, at least
        this fraction of the largest recorded value under the prefix.
      absolute: whether to compare absolute differences.
      leave_out: suffixes of names that are not compared.

    Raises:
      ValueError: the names differ.
    """
    names = [
        k[len(prefix) :].removesuffix("@flat13") for k in z if k.startswith(prefix)
    ]
    if set(names) != set(ours):
        unmatched = sorted(set(names) ^ set(ours))
        raise ValueError(
            f"{prefix}: tensor names differ from the recording's: {unmatched[:3]}. "
            "Expected the state dict of the authors' model."
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
