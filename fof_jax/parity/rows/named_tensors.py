"""Compares sets of named tensors, gradients and parameters, with a recording."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row

Recording = Mapping[str, np.ndarray]

GRADIENT_FLOOR = 1e-3
# Adam divides by gradients that nearly cancel with the L2 term, and an L1 gradient
# jumps where a parameter crosses 0: of 20,000 elements this many may move apart, as far
# as this fraction of the summed rates.
LOOSE_ELEMENTS, LOOSE_OF, LOOSE_FRACTION = 5, 20_000, 0.1


def recorded(z: Recording, name: str, ours: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ours and theirs; a thinned recording `NAME@flat13` thins ours alike.

    Raises:
      ValueError: the recording has neither.
    """
    if name in z:
        return np.asarray(ours), z[name]
    if f"{name}@flat13" not in z:
        raise ValueError(
            f"parity: the recording has no {name}. Expected one of the formats that "
            "the replay is written for."
        )
    return np.asarray(ours).ravel()[::13], z[f"{name}@flat13"]


def gradients(
    z: Recording,
    prefix: str,
    ours: Mapping[str, np.ndarray],
    *,
    quantity: str,
    tolerance: float,
) -> Row:
    """The worst tensor, each relative to its maximum or 1e-3 of the largest of all.

    Args:
      z: the recording.
      prefix: of names, such as "t0/grad/".
      ours: by published name.
      quantity: name of the row.
      tolerance: bound.
    """
    pairs = {name: recorded(z, prefix + name, value) for name, value in ours.items()}
    largest = max(float(np.abs(theirs).max()) for _, theirs in pairs.values())
    rows = [
        comparison.row(
            quantity,
            a,
            b,
            tolerance,
            scale=max(float(np.abs(b).max()), GRADIENT_FLOOR * largest) or 1.0,
            where=name,
        )
        for name, (a, b) in pairs.items()
    ]
    return comparison.worst(rows, quantity)


def parameters(
    z: Recording,
    prefix: str,
    ours: Mapping[str, np.ndarray],
    *,
    quantity: str,
    tolerance: float,
    summed_rates: float,
) -> Row:
    """The worst tensor in absolute terms, with few elements allowed to differ more.

    Args:
      z, prefix, ours, quantity, tolerance: as in `gradients`.
      summed_rates: sum of the learning rates so far.
    """
    pairs = {name: recorded(z, prefix + name, value) for name, value in ours.items()}
    limit = LOOSE_FRACTION * summed_rates
    differences = {name: np.abs(a - b) for name, (a, b) in pairs.items()}
    loose = {n: (tolerance < d) & (d <= limit) for n, d in differences.items()}
    count = sum(int(where.sum()) for where in loose.values())
    size = sum(d.size for d in differences.values())
    allowed = count <= LOOSE_ELEMENTS * max(1, size / LOOSE_OF)
    rows = []
    for name, (a, b) in pairs.items():
        a = np.where(loose[name], b, a) if allowed else a
        rows.append(comparison.row(quantity, a, b, tolerance, scale=1.0, where=name))
    return comparison.worst(rows, quantity)
