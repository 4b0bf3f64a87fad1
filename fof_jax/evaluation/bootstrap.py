"""Bootstrap confidence intervals, resampled by patient.

Regions of one patient are correlated, so each test fold is resampled by patient, with
all regions of the patient. A replicate is an integer weight per region, so that the
metrics of many replicates are computed at once.
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
    """Percentile interval of a metric.

    Attributes:
      low, high: its ends, as fractions.
      replicates: number of replicates in which the metric is defined; it is undefined
        where a class was not sampled, for example.
    """

    low: float
    high: float
    replicates: int


def confidence_intervals(
    predictions: Predictions,
    *,
    average: Average = "micro",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95% confidence intervals of the means over folds.

    A replicate samples the patients of each fold with replacement; its metric is the
    mean over folds, as in the results table. The trained models are fixed: the
    interval covers the choice of test patients only.

    Args:
      predictions: one row per image or per patient. Rows with an error or without a
        class are left out; a row without a patient counts as a separate patient.
      average: averaging of AUC, AP and F1, as in `metrics.scores`.
      replicates: number of bootstrap replicates.
      seed: random seed.

    Returns:
      Metric name -> interval, for auc, ap, accuracy, kappa, balanced_accuracy and f1;
      None for a metric that is defined in no replicate.

    Raises:
      ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(
            f"The bootstrap got {replicates} replicates; expected 1 or more. Pass, for "
            f"example, {REPLICATES}."
        )
    table = predictions.rows(predictions.ok & (predictions.y != UNKNOWN))
    rng = np.random.default_rng(seed)
    folds = [
        _fold_scores(table.rows(table.fold == k), average, replicates, rng)
        for k in np.unique(table.fold)
    ]
    tail = 100 * (1 - LEVEL) / 2
    result: dict[str, Interval | None] = {}
    for metric in folds[0] if folds else ():
        values = np.stack([fold[metric] for fold in folds])  # [folds, replicates]
        defined = np.isfinite(values)
        total = np.where(defined, values, 0.0).sum(axis=0)
        means = total[defined.any(axis=0)] / defined.sum(axis=0)[defined.any(axis=0)]
        result[metric] = None
        if len(means):
            low, high = np.percentile(means, [tail, 100 - tail])
            result[metric] = Interval(float(low), float(high), len(means))
    return result


def _fold_scores(
    table: Predictions, average: Average, replicates: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Metrics of every bootstrap replicate of one fold: name -> [replicates]."""
    names = [name or f"\0{i}" for i, name in enumerate(table.patient)]
    patient = np.unique(names, return_inverse=True)[1]
    patients = int(patient.max()) + 1
    counts = rng.multinomial(patients, np.full(patients, 1 / patients), size=replicates)
    return replicate_scores(table, counts[:, patient], average)


def replicate_scores(
    table: Predictions, weights: Int[np.ndarray, "R n"], average: Average
) -> dict[str, Float[np.ndarray, " R"]]:
    """`weighted_scores` of a table, in chunks of bounded memory."""
    chunk = max(1, _ELEMENTS // max(table.prob.size, 1))
    parts = [
        weighted_scores(table.y, table.prob, weights[at : at + chunk], average)
        for at in range(0, len(weights), chunk)
    ]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def weighted_scores(
    y: Int[np.ndarray, " n"],
    prob: Float[np.ndarray, "n K"],
    weights: Int[np.ndarray, "R n"],
    average: Average,
) -> dict[str, Float[np.ndarray, " R"]]:
    """`metrics.scores` under R integer weightings of the rows.

    Row i counts weights[r, i] times in weighting r.

    Args:
      y: true class index, 0 … K-1.
      prob: one score per class.
      weights: multiplicity of each row, 0 or more.
      average: averaging of auc, ap and f1.

    Returns:
      Metric name -> one value per weighting; NaN where it is undefined.
    """
    classes = prob.shape[1]
    onehot = y[:, None] == np.arange(classes)[None, :]  # [n, K]
    cell = y * classes + np.argmax(prob, axis=1)
    cells = cell[:, None] == np.arange(classes**2)[None, :]
    confusion = (weights @ cells.astype(weights.dtype)).reshape(-1, classes, classes)
    result = _from_confusion(confusion.astype(np.float64), average)
    truth = confusion.sum(axis=2)  # [R, K], rows of each true class
    several = (truth > 0).sum(axis=1) > 1
    if average == "micro":
        auc, ap = _auc_and_ap(
            onehot.ravel(), prob.ravel(), np.repeat(weights, classes, axis=1)
        )
    else:
        per_class = [
            _auc_and_ap(onehot[:, k], prob[:, k], weights) for k in range(classes)
        ]
        present = np.maximum((truth > 0).sum(axis=1), 1)
        auc, ap = (
            np.nansum(part, axis=0) / present for part in zip(*per_class, strict=True)
        )
    return result | {
        "auc": np.where(several, auc, np.nan),
        "ap": np.where(several, ap, np.nan),
    }


def _from_confusion(
    counts: Float[np.ndarray, "R K K"], average: Average
) -> dict[str, np.ndarray]:
    """Accuracy, kappa, balanced accuracy and F1 of R confusion matrices."""
    total = counts.sum(axis=(1, 2))
    truth, pred = counts.sum(axis=2), counts.sum(axis=1)  # [R, K]
    correct = np.einsum("rkk->rk", counts)
    accuracy = correct.sum(axis=1) / total
    chance = (truth * pred).sum(axis=1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan)
        recall = np.nanmean(np.where(truth > 0, correct / truth, np.nan), axis=1)
        f1 = np.where(truth > 0, 2 * correct / (truth + pred), np.nan)
    return {
        "accuracy": accuracy,
        "kappa": kappa,
        "balanced_accuracy": recall,
        "f1": accuracy if average == "micro" else np.nanmean(f1, axis=1),
    }


def _auc_and_ap(
    truth: Bool[np.ndarray, " m"],
    score: Float[np.ndarray, " m"],
    weights: Int[np.ndarray, "R m"],
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """AUC and AP of one binary problem under R weightings; NaN with one class only.

    AUC is the probability that a positive row scores higher than a negative one, with
    ties counted as half. AP is the sum over thresholds of precision times the increase
    of recall.
    """
    order = np.argsort(-score, kind="stable")
    score, weights = score[order], weights[:, order].astype(np.float64)
    ties = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # first of each tie
    positive = np.add.reduceat(weights * truth[order], ties, axis=1)  # [R, thresholds]
    negative = np.add.reduceat(weights * ~truth[order], ties, axis=1)
    tp = np.cumsum(positive, axis=1)
    called = tp + np.cumsum(negative, axis=1)
    p, n = tp[:, -1], negative.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(called > 0, tp / called, 0.0)
        ap = (positive * precision).sum(axis=1) / p
        pairs = (negative * (tp - positive / 2)).sum(axis=1)
        return pairs / (p * n), ap
