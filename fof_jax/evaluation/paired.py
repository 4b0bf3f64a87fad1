"""Paired differences of methods: bootstrap by patient, and Holm's correction.

Methods of a comparison are tested on the same regions. In each replicate the patients
of all test folds are sampled with replacement, each with all of its regions in every
fold, and the same sample serves all methods: a difference is computed within a
replicate. The trained models are fixed, so that an interval covers the choice of test
patients and not the variation of training.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from fof_jax.evaluation import bootstrap
from fof_jax.evaluation.predictions import UNKNOWN, Predictions

METRICS = ("auc", "ap", "accuracy", "kappa")  # the paper's
Key = tuple[int, int]  # (seed, fold) of a cell


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two methods in one metric, as fractions.

    Attributes:
      value: mean over the cells that both have.
      low, high: 95% interval.
      p: two-sided p-value that belongs to the interval, see `difference`.
      p_holm: p-value after Holm's correction over the comparisons of its family.
      cells: number of cells that both have.
    """

    value: float
    low: float
    high: float
    p: float
    p_holm: float
    cells: int


@dataclasses.dataclass(frozen=True, eq=False)
class Replicates:
    """Metrics of one method in every cell.

    Attributes:
      values: metric -> cell -> value; NaN where it is undefined.
      draws: metric -> cell -> values of the R bootstrap replicates.
    """

    values: Mapping[str, Mapping[Key, float]]
    draws: Mapping[str, Mapping[Key, Float[np.ndarray, " R"]]]

    def mean(self, metric: str) -> tuple[float, float, float]:
        """Mean over cells, and the ends of its 95% interval; NaN if undefined."""
        values = list(self.values[metric].values())
        low, high = _interval(_nanmean(list(self.draws[metric].values())))
        return float(_nanmean([np.array([v]) for v in values])[0]), low, high


def scored(table: Predictions) -> Predictions:
    """Rows with probabilities and a true class."""
    return table.rows(table.ok & (table.y != UNKNOWN))


def patient_weights(
    tables: Mapping[int, Predictions], *, replicates: int, seed: int = 0
) -> dict[int, Int[np.ndarray, "R n"]]:
    """Multiplicity of each test row in each replicate.

    Args:
      tables: fold -> its test rows, of any method; the patients of all folds together
        are sampled. A row without a patient counts as a patient of its own.
      replicates: R.
      seed: random seed.

    Returns:
      fold -> weights.
    """
    names: dict[str, int] = {}
    positions = {}
    for fold in sorted(tables):
        patients = [
            name or f"\0{fold}/{i}" for i, name in enumerate(tables[fold].patient)
        ]
        positions[fold] = np.array([names.setdefault(n, len(names)) for n in patients])
    rng = np.random.default_rng(seed)
    count = len(names)
    counts = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return {fold: counts[:, at] for fold, at in positions.items()}


def replicates(
    cells: Mapping[Key, Predictions], weights: Mapping[int, Int[np.ndarray, "R n"]]
) -> Replicates:
    """Micro-averaged metrics of a method's cells, and of their replicates.

    Args:
      cells: scored test rows of each cell, in the order of `weights`.
      weights: of `patient_weights`, by fold.
    """
    values: dict[str, dict[Key, float]] = {metric: {} for metric in METRICS}
    draws: dict[str, dict[Key, np.ndarray]] = {metric: {} for metric in METRICS}
    for key, table in sorted(cells.items()):
        cell_weights = weights[key[1]]
        once = np.ones((1, cell_weights.shape[1]), cell_weights.dtype)
        point = bootstrap.weighted_scores(table.y, table.prob, once, "micro")
        # A small fold may have no patient in a replicate.
        drawn = cell_weights.any(axis=1)
        sampled = bootstrap.replicate_scores(table, cell_weights[drawn], "micro")
        for metric in METRICS:
            values[metric][key] = float(point[metric][0])
            draws[metric][key] = np.full(len(cell_weights), np.nan)
            draws[metric][key][drawn] = sampled[metric]
    return Replicates(values, draws)


def difference(
    ours: Replicates, reference: Replicates, metric: str
) -> Difference | None:
    """Difference of two methods over the cells that both have.

    The p-value inverts the percentile interval: 2 (1 + b) / (1 + R), at most 1, where
    b is the smaller one of the numbers of replicates at or below 0 and at or above 0.

    Returns:
      The difference, not corrected; None without a common cell or if undefined.
    """
    common = [key for key in ours.values[metric] if key in reference.values[metric]]
    if not common:
        return None
    points, samples = [], []
    for key in common:
        points.append(ours.values[metric][key] - reference.values[metric][key])
        samples.append(ours.draws[metric][key] - reference.draws[metric][key])
    value = float(_nanmean([np.array([p]) for p in points])[0])
    means = _nanmean(samples)
    means = means[np.isfinite(means)]
    if not len(means) or not np.isfinite(value):
        return None
    low, high = _interval(means)
    beyond = min(int(np.sum(means <= 0)), int(np.sum(means >= 0)))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(means)))
    return Difference(value, low, high, p, p, len(common))


def corrected(family: Mapping[str, Difference]) -> dict[str, Difference]:
    """Fills `p_holm` of differences that are tested together."""
    adjusted = holm([one.p for one in family.values()])
    return {
        name: dataclasses.replace(one, p_holm=p)
        for (name, one), p in zip(family.items(), adjusted, strict=True)
    }


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down adjustment of m p-values.

    .. math::
       \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) p_{(j)})

    A comparison is significant at level alpha if its adjusted value is at most alpha;
    the probability of one false positive or more is then at most alpha.

    Returns:
      Adjusted values, in the order of `p`.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _nanmean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over cells of what is defined, NaN where nothing is."""
    stacked = np.stack(values)
    defined = np.isfinite(stacked)
    count = defined.sum(axis=0)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _interval(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    tail = 100 * (1 - bootstrap.LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
