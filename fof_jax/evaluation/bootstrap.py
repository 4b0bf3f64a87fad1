"""Bootstrap intervals of a run's figures, drawn by patient.

Regions of one patient are alike, so it is patients that are drawn again, within each
test fold, and all their regions come along. A draw is a weight a region (how often it
came), which lets every figure be computed for many draws at once.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.evaluation.metrics import Average
from fof_jax.evaluation.predictions import UNKNOWN, Predictions

LEVEL = 0.95
REPLICATES = 2000
_ELEMENTS = 4_000_000  # of a temporary array: about 32 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """Percentile interval of a figure.

    Attributes:
      low, high: its ends, as shares.
      draws: how many draws had the figure; it does not exist in every one, say
        where a class was not drawn at all.
    """

    low: float
    high: float
    draws: int


def bootstrap(
    predictions: Predictions,
    *,
    average: Average = "micro",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95% intervals of the means over folds.

    A draw takes, in each fold, as many patients as it has, with replacement; its
    figure is the mean over folds, as in the table. Trained models are not drawn:
    the interval says how far the figure depends on who was tested.

    Args:
      predictions: one row an image or a patient. Rows with an error or without a
        class are left out; a row without a patient counts as a patient of its own.
      average: of AUC, AP and F1, as in `metrics.scores`.
      replicates: number of draws.
      seed: of the draws.

    Returns:
      By figure: auc, ap, accuracy, kappa, balanced_accuracy, f1. None where a figure
      exists in no draw.

    Raises:
      ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(
            f"bootstrap got {replicates} replicates; expected 1 or more. Pass some "
            f"{REPLICATES}."
        )
    table = predictions.rows(predictions.ok & (predictions.y != UNKNOWN))
    rng = np.random.default_rng(seed)
    folds = [_fold(table.rows(table.fold == k), average, replicates, rng)
             for k in np.unique(table.fold)]  # fmt: skip
    tail = 100 * (1 - LEVEL) / 2
    result: dict[str, Interval | None] = {}
    for figure in folds[0] if folds else ():
        values = np.stack([fold[figure] for fold in folds])  # [folds, replicates]
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum(axis=0)
        means = total[known.any(axis=0)] / known.sum(axis=0)[known.any(axis=0)]
        result[figure] = None
        if len(means):
            low, high = np.percentile(means, [tail, 100 - tail])
            result[figure] = Interval(float(low), float(high), len(means))
    return result


def _fold(
    table: Predictions, average: Average, replicates: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Every figure of every draw of one fold's patients."""
    names = [name or f"\0{i}" for i, name in enumerate(table.patient)]
    of_row = np.unique(names, return_inverse=True)[1]
    patients = int(of_row.max()) + 1
    at_once = max(1, _ELEMENTS // max(table.prob.size, 1))
    parts = []
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=rows)
        parts.append(weighted_scores(table.y, table.prob, drawn[:, of_row], average))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def weighted_scores(
    y: Int[np.ndarray, " n"],
    prob: Float[np.ndarray, "n K"],
    weights: Int[np.ndarray, "R n"],
    average: Average,
) -> dict[str, Float[np.ndarray, " R"]]:
    """`metrics.scores` of R tables, in which row i stands weights[r, i] times.

    Args:
      y: class index of the truth, 0 … K-1.
      prob: a score a class.
      weights: how often a row counts, 0 or more.
      average: of auc, ap and f1.

    Returns:
      By figure, a value a table; NaN where it does not exist.
    """
    classes = prob.shape[1]
    onehot = y[:, None] == np.arange(classes)[None, :]  # [n, K]
    cell = y * classes + np.argmax(prob, axis=1)
    cells = cell[:, None] == np.arange(classes**2)[None, :]
    confusion = (weights @ cells.astype(weights.dtype)).reshape(-1, classes, classes)
    figures = _from_confusion(confusion.astype(np.float64), average)
    truth = confusion.sum(axis=2)  # [R, K], rows that are of a class
    several = (truth > 0).sum(axis=1) > 1
    if average == "micro":
        auc, ap = _ranked(
            onehot.ravel(), prob.ravel(), np.repeat(weights, classes, axis=1)
        )
    else:
        each = [_ranked(onehot[:, k], prob[:, k], weights) for k in range(classes)]
        present = np.maximum((truth > 0).sum(axis=1), 1)
        auc, ap = (
            np.nansum(part, axis=0) / present for part in zip(*each, strict=True)
        )
    return figures | {
        "auc": np.where(several, auc, np.nan),
        "ap": np.where(several, ap, np.nan),
    }


def _from_confusion(
    counts: Float[np.ndarray, "R K K"], average: Average
) -> dict[str, np.ndarray]:
    """Accuracy, kappa, balanced accuracy and F1 of R confusion matrices."""
    total = counts.sum(axis=(1, 2))
    truth, pred = counts.sum(axis=2), counts.sum(axis=1)  # [R, K]
    right = np.einsum("rkk->rk", counts)
    accuracy = right.sum(axis=1) / total
    chance = (truth * pred).sum(axis=1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan)
        recall = np.nanmean(np.where(truth > 0, right / truth, np.nan), axis=1)
        f1 = np.where(truth > 0, 2 * right / (truth + pred), np.nan)
    return {
        "accuracy": accuracy,
        "kappa": kappa,
        "balanced_accuracy": recall,
        "f1": accuracy if average == "micro" else np.nanmean(f1, axis=1),
    }


def _ranked(
    truth: Bool[np.ndarray, " m"],
    score: Float[np.ndarray, " m"],
    weights: Int[np.ndarray, "R m"],
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """AUC and AP of one binary problem under R weightings; NaN without both sides.

    AUC is the chance that a positive row stands above a negative one, equals counting
    half. AP is the sum over thresholds of precision times the recall that is gained.
    """
    order = np.argsort(-score, kind="stable")
    score, weights = score[order], weights[:, order].astype(np.float64)
    begins = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # of equal scores
    positive = np.add.reduceat(weights * truth[order], begins, axis=1)  # [R, g]
    negative = np.add.reduceat(weights * ~truth[order], begins, axis=1)
    above = np.cumsum(positive, axis=1)
    chosen = above + np.cumsum(negative, axis=1)
    p, n = above[:, -1], negative.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(chosen > 0, above / chosen, 0.0)
        ap = (positive * precision).sum(axis=1) / p
        pairs = (negative * (above - positive / 2)).sum(axis=1)
        return pairs / (p * n), ap
