"""Means over images with bootstrap intervals by patient."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fof_jax.evaluation.bootstrap import LEVEL, REPLICATES


class MeanInterval(NamedTuple):
    """A mean over images and its percentile interval.

    Attributes:
      mean: over the images with a value.
      low, high: ends of the interval; None with a single patient.
      images, patients: number of those with a value.
    """

    mean: float
    low: float | None
    high: float | None
    images: int
    patients: int


def patient_mean(
    values: Float[np.ndarray, " n"] | Sequence[float],
    patients: Sequence[str],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> MeanInterval | None:
    """Mean of a figure over images, with its 95% interval.

    Patients are resampled with replacement, each with all its images, so that images
    of one patient do not count as independent.

    Args:
      values: one per image; NaN where there is none.
      patients: patient of each image.
      replicates: number of bootstrap replicates.
      seed: of the resampling.

    Returns:
      The mean and its interval; None without a value.
    """
    array = np.asarray(values, np.float64)
    known = np.isfinite(array)
    if not known.any():
        return None
    names = np.asarray(patients)[known]
    kept = array[known]
    number = np.unique(names, return_inverse=True)[1]
    count = int(number.max()) + 1
    low = high = None
    if count > 1:
        sums = np.bincount(number, weights=kept)
        sizes = np.bincount(number)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
        means = (drawn @ sums) / (drawn @ sizes)
        tail = 100 * (1 - LEVEL) / 2
        low, high = map(float, np.percentile(means, [tail, 100 - tail]))
    return MeanInterval(float(kept.mean()), low, high, len(kept), count)
