"""Classification metrics per fold, and their mean and standard deviation over folds.

Definitions are scikit-learn's on explicit one-hot columns: micro pools the K columns
into one binary problem, macro is the unweighted mean over the classes that occur. An
undefined metric is None with a note, never 0 and never NaN.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.evaluation.aggregation import Aggregate, by_patient
from fof_jax.evaluation.predictions import UNKNOWN, Predictions, PredictionsError

Average = Literal["micro", "macro"]
AVERAGES: tuple[Average, ...] = ("micro", "macro")
Unit = Literal["region", "patient"]
UNITS: tuple[Unit, ...] = ("region", "patient")
METRICS = ("auc", "ap", "accuracy", "kappa", "balanced_accuracy", "f1")


def scores(
    y: Int[np.ndarray, " n"],
    prob: Float[np.ndarray, "n K"],
    *,
    average: Average,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Computes the metrics of one fold.

    Args:
      y: true class index, 0 … K-1.
      prob: one score per class, usually probabilities. The prediction is the argmax.
      average: "micro" or "macro", for auc, ap and f1. Accuracy, kappa (unweighted
        Cohen) and balanced accuracy (mean recall over the classes that occur) do not
        depend on it.
      names: of the K classes, for the notes; None numbers them.

    Returns:
      auc, ap, accuracy, kappa, balanced_accuracy, f1 (0-1, kappa -1 to 1; None where
      undefined), auc_per_class (K values or None), confusion (K x K counts, rows are
      true classes), n, and notes on undefined metrics and absent classes.

    Raises:
      ValueError: unknown average, no rows, shapes that do not match, y out of range,
        or scores that are not finite.
    """
    _check(y, prob, average)
    from sklearn import metrics as sk  # a second, which no prediction needs

    classes = prob.shape[1]
    names = names or [str(k) for k in range(classes)]
    # Not LabelBinarizer, which drops the column of an absent class.
    onehot = y[:, None] == np.arange(classes)[None, :]  # [n, K]
    pred = np.argmax(prob, axis=1)
    present = np.flatnonzero(onehot.any(axis=0)).tolist()
    notes = []
    result: dict[str, Any] = dict.fromkeys(METRICS)
    if len(present) == 1:
        notes.append(
            f"only class {names[present[0]]} occurs ({len(y)} rows): AUC and AP are "
            "undefined."
        )
    elif len(present) < classes:
        absent = [names[k] for k in range(classes) if k not in present]
        notes.append(
            f"class(es) {', '.join(absent)} do not occur: macro metrics "
            "and balanced accuracy are over the others."
        )
    per_class, result["auc"], result["ap"] = _ranking(onehot, prob, present, average)
    result["accuracy"] = float(sk.accuracy_score(y, pred))
    confusion = sk.confusion_matrix(y, pred, labels=np.arange(classes))
    if len(set(present) | set(pred.tolist())) > 1:
        result["kappa"] = float(sk.cohen_kappa_score(y, pred))
    else:
        notes.append("all labels and predictions are of one class: kappa is undefined.")
    recall = np.diag(confusion)[present] / confusion.sum(axis=1)[present]
    result["balanced_accuracy"] = float(np.mean(recall))
    # Micro F1 over all K labels is accuracy; macro is over the classes that occur.
    labels = np.arange(classes) if average == "micro" else present
    result["f1"] = float(
        sk.f1_score(y, pred, labels=labels, average=average, zero_division=0.0)
    )
    return result | {
        "auc_per_class": per_class,
        "confusion": confusion.tolist(),
        "n": len(y),
        "notes": notes,
    }


def _ranking(
    onehot: Bool[np.ndarray, "n K"],
    prob: Float[np.ndarray, "n K"],
    present: Sequence[int],
    average: Average,
) -> tuple[list[float | None], float | None, float | None]:
    """AUC of each class, and average AUC and AP; None where undefined."""
    from sklearn import metrics as sk

    per_class: list[float | None] = [None] * prob.shape[1]
    if len(present) == 1:
        return per_class, None, None
    for k in present:
        per_class[k] = float(sk.roc_auc_score(onehot[:, k], prob[:, k]))
    if average == "micro":
        truth, score = onehot.ravel(), prob.ravel()
        auc = float(sk.roc_auc_score(truth, score))
        ap = sk.average_precision_score(truth, score)
    else:
        auc = float(np.mean([per_class[k] for k in present]))
        ap = sk.average_precision_score(
            onehot[:, present], prob[:, present], average="macro"
        )
    return per_class, auc, float(ap)


def summarize(
    predictions: Predictions, *, aggregate: Aggregate = "mean"
) -> dict[str, Any]:
    """Metrics of a cross-validation: per fold, and mean and std over folds.

    The standard deviation is the sample one (ddof = 1); the paper does not say which
    it reports. With five folds, ddof = 0 would be smaller by a factor of 0.894. Rows
    with an error or without a true class are left out and counted.

    Args:
      predictions: one row per image, all folds together.
      aggregate: how a patient's images are aggregated, see `by_patient`.

    Returns:
      A JSON-serializable dict: `units` -> region, patient -> `n`, `confusion` (sum
      over folds), `auc_per_class` ({mean, std} each), and micro, macro -> `folds`
      (fold -> metrics), `mean`, `std` (metric -> value or None); `folds` (names; an
      unknown fold is "-"), `classes`, `ddof`, `aggregate`, `rows`, `failed`,
      `unlabelled`, `notes`. A unit without rows is None.

    Raises:
      PredictionsError: no row can be scored, or unknown aggregate.
    """
    ok, labeled = predictions.ok, predictions.y != UNKNOWN
    notes = []
    failed, unlabeled = int(np.sum(~ok)), int(np.sum(ok & ~labeled))
    if failed:
        notes.append(f"{failed} of {len(predictions)} rows have an error: left out.")
    if unlabeled:
        notes.append(f"{unlabeled} rows have no known class (y): left out.")
    if not np.any(ok & labeled):
        raise PredictionsError(
            f"None of the {len(predictions)} rows can be scored: {failed} have an "
            f"error, {unlabeled} have no y. Expected some with probabilities and a "
            "known class. Fill in y, or predict again."
        )
    patients = by_patient(predictions, aggregate=aggregate)
    notes += patients.notes
    units: dict[str, Any] = {}
    for unit, table in (("region", predictions), ("patient", patients)):
        table = table.rows(table.ok & (table.y != UNKNOWN))
        units[unit] = _unit(table, unit, notes) if len(table) else None
    if units["patient"] is None:
        notes.append("no row has a patient: no metrics per patient.")
    fold = predictions.fold[ok & labeled]
    if (fold == UNKNOWN).any() and (fold != UNKNOWN).any():
        notes.append("rows without a fold are scored together as the fold '-'.")
    return {
        "folds": [_fold_name(k) for k in np.unique(fold).tolist()],
        "classes": predictions.prob.shape[1],
        "ddof": 1,
        "aggregate": aggregate,
        "rows": len(predictions),
        "failed": failed,
        "unlabelled": unlabeled,
        "units": units,
        "notes": list(dict.fromkeys(notes)),
    }


def units_with_results(results: dict[str, Any]) -> Iterator[tuple[Unit, Any]]:
    """Region and patient, with their metrics; a unit without rows is left out."""
    for unit in UNITS:
        if results["units"][unit] is not None:
            yield unit, results["units"][unit]


def _unit(table: Predictions, unit: str, notes: list[str]) -> dict[str, Any]:
    """Metrics of one unit; notes on single folds are appended to `notes`."""
    folds = np.unique(table.fold).tolist()
    result: dict[str, Any] = {"n": len(table)}
    for average in AVERAGES:
        per_fold = {}
        for k in folds:
            in_fold = table.fold == k
            per_fold[_fold_name(k)] = scores(
                table.y[in_fold],
                table.prob[in_fold],
                average=average,
                names=table.classes,
            )
        for name, fold in per_fold.items():
            notes += [f"fold {name}, per {unit}: {note}" for note in fold["notes"]]
        spread = {m: _mean_std([f[m] for f in per_fold.values()]) for m in METRICS}
        result[average] = {
            "folds": per_fold,
            "mean": {metric: value["mean"] for metric, value in spread.items()},
            "std": {metric: value["std"] for metric, value in spread.items()},
        }
    results = result["micro"]["folds"].values()
    result["confusion"] = np.sum([r["confusion"] for r in results], axis=0).tolist()
    result["auc_per_class"] = [
        _mean_std([r["auc_per_class"][k] for r in results])
        for k in range(table.prob.shape[1])
    ]
    return result


def _mean_std(values: list[float | None]) -> dict[str, float | int | None]:
    defined = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "std": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "folds": len(defined),
    }


def _fold_name(fold: int) -> str:
    return "-" if fold == UNKNOWN else str(fold)


def _check(y, prob, average) -> None:
    if average not in AVERAGES:
        raise ValueError(
            f"average is {average!r}; expected 'micro' or 'macro'. Pass one of them."
        )
    if not len(y) or prob.shape[0] != len(y) or prob.shape[1] < 2:
        raise ValueError(
            f"scores got {len(y)} labels and probabilities of shape {prob.shape}; "
            "expected n >= 1 labels and [n, K] with K >= 2. Pass one row per label."
        )
    if y.min() < 0 or y.max() >= prob.shape[1] or not np.isfinite(prob).all():
        raise ValueError(
            f"scores got labels {y.min()} … {y.max()} and {prob.shape[1]} columns, "
            f"{int(np.sum(~np.isfinite(prob)))} values of them not finite; expected "
            f"labels 0 … {prob.shape[1] - 1} and finite values. Leave out rows "
            "without a label or with an error."
        )
