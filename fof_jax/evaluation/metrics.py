"""AUC, AP, accuracy, kappa and the rest; averaging and unit are arguments.

Definitions are scikit-learn's on explicit one-hot columns: micro pools the K columns
to one binary problem, macro is the plain mean over the classes that occur. What does
not exist is None with a note, never 0 and never NaN.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from sklearn import metrics as sk

from fof_jax.evaluation.predictions import UNKNOWN, Predictions, PredictionsError

Average = Literal["micro", "macro"]
Aggregate = Literal["mean", "max"]
AVERAGES: tuple[Average, ...] = ("micro", "macro")
FIGURES = ("auc", "ap", "accuracy", "kappa", "balanced_accuracy", "f1")


def scores(
    y: Int[np.ndarray, " n"], prob: Float[np.ndarray, "n K"], *, average: Average
) -> dict[str, Any]:
    """Score predictions of one fold.

    Args:
      y: class index of the truth, 0 … K-1.
      prob: a score a class, higher is likelier; probabilities, as a rule. The
        prediction is the largest.
      average: "micro" or "macro", for auc, ap and f1. Accuracy, kappa (unweighted
        Cohen) and balanced accuracy (mean recall over the classes that occur) are
        the same under both.

    Returns:
      auc, ap, accuracy, kappa, balanced_accuracy, f1 (0-1, kappa -1 to 1; None where
      it does not exist), auc_per_class (K values or None), confusion (K x K counts,
      rows are the truth), n, and notes: sentences on what is None or left out.

    Raises:
      ValueError: another average, no rows, shapes that do not fit, y out of range,
        scores that are not finite.
    """
    _check(y, prob, average)
    classes = prob.shape[1]
    # One-hot by hand: LabelBinarizer drops the column of a class that is missing.
    onehot = y[:, None] == np.arange(classes)[None, :]  # [n, K]
    pred = np.argmax(prob, axis=1)
    present = np.flatnonzero(onehot.any(axis=0)).tolist()
    notes = []
    result: dict[str, Any] = dict.fromkeys(FIGURES)
    per_class: list[float | None] = [None] * classes
    if len(present) == 1:
        notes.append(
            f"only class {present[0]} occurs ({len(y)} rows): AUC and AP do not exist."
        )
    else:
        for k in present:
            per_class[k] = float(sk.roc_auc_score(onehot[:, k], prob[:, k]))
        if len(present) < classes:
            absent = [k for k in range(classes) if k not in present]
            notes.append(
                f"class(es) {', '.join(map(str, absent))} do not occur: macro figures "
                "and balanced accuracy are over the others."
            )
        if average == "micro":
            truth, score = onehot.ravel(), prob.ravel()
            result["auc"] = float(sk.roc_auc_score(truth, score))
            result["ap"] = float(sk.average_precision_score(truth, score))
        else:
            result["auc"] = float(np.mean([per_class[k] for k in present]))
            result["ap"] = float(
                sk.average_precision_score(
                    onehot[:, present], prob[:, present], average="macro"
                )
            )
    result["accuracy"] = float(sk.accuracy_score(y, pred))
    confusion = sk.confusion_matrix(y, pred, labels=np.arange(classes))
    if len(set(present) | set(pred.tolist())) > 1:
        result["kappa"] = float(sk.cohen_kappa_score(y, pred))
    else:
        notes.append("truth and predictions are one and the same class: no kappa.")
    recall = np.diag(confusion)[present] / confusion.sum(axis=1)[present]
    result["balanced_accuracy"] = float(np.mean(recall))
    # Over all K labels micro F1 is accuracy; macro is over the classes that occur.
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


def by_patient(
    predictions: Predictions, *, aggregate: Aggregate = "mean"
) -> Predictions:
    """Bring images together to patients, within each fold.

    Left out, and said in the notes: images with an error, images without a patient,
    and patients with two grades.

    Args:
      predictions: one row an image.
      aggregate: "mean" of the probabilities over a patient's images, or their "max"
        per class, which is not divided by its sum (as Pathomic Fusion has it), so
        that a row may sum to more than 1.

    Returns:
      One row a patient and fold, in order of appearance; `image` is empty.

    Raises:
      PredictionsError: another aggregate.
    """
    if aggregate not in ("mean", "max"):
        raise PredictionsError(
            f"aggregate is {aggregate!r}; expected 'mean' or 'max'. Pass one of them."
        )
    grades: dict[str, set[int]] = {}
    for name, y in zip(predictions.patient, predictions.y.tolist(), strict=True):
        grades.setdefault(name, set()).update({y} - {UNKNOWN})
    torn = sorted(name for name, ys in grades.items() if name and len(ys) > 1)
    groups: dict[tuple[str, int], list[int]] = {}
    for i in np.flatnonzero(predictions.ok).tolist():
        name = predictions.patient[i]
        if name and name not in torn:
            groups.setdefault((name, int(predictions.fold[i])), []).append(i)
    notes = list(predictions.notes)
    if torn:
        shown = ", ".join(torn[:5]) + (", …" if len(torn) > 5 else "")
        notes.append(
            f"{len(torn)} patient(s) with two grades left out of patient figures: "
            f"{shown}."
        )
    nameless = sum(not name for name in predictions.patient)
    if nameless:
        notes.append(
            f"{nameless} image(s) without a patient left out of patient figures."
        )
    reduce = np.mean if aggregate == "mean" else np.max
    prob = [reduce(predictions.prob[at], axis=0) for at in groups.values()]
    return Predictions(
        patient=tuple(name for name, _ in groups),
        image=("",) * len(groups),
        fold=np.array([fold for _, fold in groups], np.int64),
        y=np.array([max(grades[n], default=UNKNOWN) for n, _ in groups], np.int64),
        prob=np.reshape(prob, (len(groups), predictions.prob.shape[1])),
        error=("",) * len(groups),
        notes=tuple(notes),
    )


def summarise(
    predictions: Predictions, *, aggregate: Aggregate = "mean"
) -> dict[str, Any]:
    """Every figure of a cross-validation: per fold, and mean and deviation over folds.

    The deviation is the sample one (ddof = 1); the paper says "standard deviation"
    and no more. With five folds, ddof = 0 would be smaller by a factor of 0.894.
    Rows with an error and rows whose truth is unknown are left out and counted.

    Args:
      predictions: one row an image, folds together.
      aggregate: how a patient's images come together, see `by_patient`.

    Returns:
      A dict that JSON can hold: `units` -> region, patient -> `n`, `confusion` (sum
      over folds), `auc_per_class` ({mean, std} each), and micro, macro -> `folds`
      (fold -> figures), `mean`, `std` (figure -> value or None); `folds` (their
      numbers; a fold that is not known is "-"), `classes`, `ddof`, `aggregate`,
      `rows`, `failed`, `unlabelled`, `notes`. A unit without rows is None.

    Raises:
      PredictionsError: nothing that can be scored, or another aggregate.
    """
    ok, labelled = predictions.ok, predictions.y != UNKNOWN
    notes = []
    failed, unlabelled = int(np.sum(~ok)), int(np.sum(ok & ~labelled))
    if failed:
        notes.append(f"{failed} of {len(predictions)} rows have an error: left out.")
    if unlabelled:
        notes.append(f"{unlabelled} rows have no known class (y): left out.")
    if not np.any(ok & labelled):
        raise PredictionsError(
            f"None of the {len(predictions)} rows can be scored: {failed} have an "
            f"error, {unlabelled} have no y. Expected some with probabilities and a "
            "known class. Fill in y, or predict again."
        )
    patients = by_patient(predictions, aggregate=aggregate)
    notes += patients.notes
    units: dict[str, Any] = {}
    for unit, table in (("region", predictions), ("patient", patients)):
        table = table.rows(table.ok & (table.y != UNKNOWN))
        units[unit] = _unit(table, unit, notes) if len(table) else None
    if units["patient"] is None:
        notes.append("no patient is known by name: no figures per patient.")
    fold = predictions.fold[ok & labelled]
    if (fold == UNKNOWN).any() and (fold != UNKNOWN).any():
        notes.append("rows without a fold are scored as a fold of their own, '-'.")
    return {
        "folds": [_name(k) for k in np.unique(fold).tolist()],
        "classes": predictions.prob.shape[1],
        "ddof": 1,
        "aggregate": aggregate,
        "rows": len(predictions),
        "failed": failed,
        "unlabelled": unlabelled,
        "units": units,
        "notes": list(dict.fromkeys(notes)),
    }


def _unit(table: Predictions, unit: str, notes: list[str]) -> dict[str, Any]:
    """The figures of one unit; sentences on single folds are added to `notes`."""
    folds = np.unique(table.fold).tolist()
    result: dict[str, Any] = {"n": len(table)}
    for average in AVERAGES:
        each = {}
        for k in folds:
            at = table.fold == k
            each[_name(k)] = scores(table.y[at], table.prob[at], average=average)
        for name, one in each.items():
            notes += [f"fold {name}, per {unit}: {note}" for note in one["notes"]]
        spread = {f: _spread([one[f] for one in each.values()]) for f in FIGURES}
        result[average] = {
            "folds": each,
            "mean": {figure: value["mean"] for figure, value in spread.items()},
            "std": {figure: value["std"] for figure, value in spread.items()},
        }
    each = result["micro"]["folds"].values()
    result["confusion"] = np.sum([one["confusion"] for one in each], axis=0).tolist()
    result["auc_per_class"] = [
        _spread([one["auc_per_class"][k] for one in each])
        for k in range(table.prob.shape[1])
    ]
    return result


def _spread(values: list[float | None]) -> dict[str, float | int | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "folds": len(known),
    }


def _name(fold: int) -> str:
    return "-" if fold == UNKNOWN else str(fold)


def _check(y, prob, average) -> None:
    if average not in AVERAGES:
        raise ValueError(
            f"average is {average!r}; expected 'micro' or 'macro'. Pass one of them."
        )
    if not len(y) or prob.shape[0] != len(y) or prob.shape[1] < 2:
        raise ValueError(
            f"scores got {len(y)} labels and probabilities of shape {prob.shape}; "
            "expected n >= 1 labels and [n, K] with K >= 2. Pass one row a label."
        )
    if y.min() < 0 or y.max() >= prob.shape[1] or not np.isfinite(prob).all():
        raise ValueError(
            f"scores got labels {y.min()} … {y.max()} and {prob.shape[1]} columns, "
            f"{int(np.sum(~np.isfinite(prob)))} values of them not finite; expected "
            f"labels 0 … {prob.shape[1] - 1} and finite values. Leave out rows "
            "without a label or with an error."
        )
