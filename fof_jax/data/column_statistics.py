"""Mean and standard deviation of columns, over rows that come in parts."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32


class ColumnStatistics(NamedTuple):
    """Mean and standard deviation of each column; 1 where a column is constant."""

    mean: Float32[np.ndarray, " F"]
    std: Float32[np.ndarray, " F"]


def measure(parts: Iterable[np.ndarray]) -> ColumnStatistics:
    """Statistics over the rows of all parts, each [n, F] with n >= 0.

    Raises:
      ValueError: there is no row.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    pivot = None
    for part in parts:
        if not len(part):
            continue
        # Deviations from a value of the column's order keep their digits in the sum.
        pivot = part[0].astype(np.float64) if pivot is None else pivot
        x = part - pivot
        count += len(x)
        total, squares = total + x.sum(0), squares + (x * x).sum(0)
    if pivot is None:
        raise ValueError("column statistics: got no row, expected one or more.")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    constant = std <= 1e-6 * np.maximum(np.abs(mean + pivot), 1e-6)
    return ColumnStatistics(
        (mean + pivot).astype(np.float32), np.where(constant, 1, std).astype(np.float32)
    )
