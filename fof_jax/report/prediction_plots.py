"""Figures of the predictions: confusion, ROC, precision-recall, reliability."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from sklearn import metrics as sk

from fof_jax.evaluation import calibration
from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.report.style import (
    CARD,
    DASHES,
    GRID,
    INK,
    MUTED,
    SERIES,
    Drawn,
    finish,
    legend_below,
    new,
    wrapped,
)

GRID_POINTS = np.linspace(0.0, 1.0, 201)  # on which folds are averaged
Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float] | None]


def scored(predictions: Predictions) -> Predictions:
    """The rows that figures are made of: no error, a known class."""
    return predictions.rows(predictions.ok & (predictions.y != UNKNOWN))


def confusion(
    counts: Float[np.ndarray, "K K"],
    classes: tuple[str, ...],
    *,
    unit: str,
    folder: Path,
) -> Drawn:
    """The confusion matrix; the darker a cell, the larger its share of the row.

    Args:
      counts: rows are the truth; the sum over folds.
      classes: their names.
      unit: region or patient.
      folder: of the files.
    """
    k = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = list(classes)
    columns = names
    if any(len(name) > 8 for name in names):  # too long to stand side by side
        names = [wrapped(f"{i}: {name}", 19) for i, name in enumerate(classes, 1)]
        columns = [str(i) for i in range(1, k + 1)]
    with new() as (figure, axes):
        axes.grid(False)
        for i in range(k):
            for j in range(k):
                axes.fill(
                    np.array([-0.5, 0.5, 0.5, -0.5]) + j,
                    np.array([-0.5, -0.5, 0.5, 0.5]) + i,
                    facecolor=SERIES[0],
                    alpha=0.6 * share[i, j],
                    linewidth=0,
                )
                axes.text(
                    j,
                    i,
                    f"{counts[i, j]:.0f}\n{100 * share[i, j]:.0f}%",
                    ha="center",
                    va="center",
                    fontweight="bold" if i == j else "normal",
                )
        axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_xticks(range(k), columns)
        axes.set_yticks(range(k), names)
        axes.hlines(np.arange(1, k) - 0.5, -0.5, k - 0.5, color=GRID, linewidth=1)
        axes.vlines(np.arange(1, k) - 0.5, -0.5, k - 0.5, color=GRID, linewidth=1)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return finish(
            figure,
            name=f"confusion_{unit}",
            title=f"Confusion matrix, per {unit}",
            caption=f"Number of {unit}s and share of the true class, all folds "
            "together; bold is right.",
            folder=folder,
        )


def roc_curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, float] | None:
    """True-positive rates on `GRID_POINTS` of false-positive rates, and the AUC.

    None where only one side occurs.
    """
    if truth.all() or not truth.any():
        return None
    false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    line = np.interp(GRID_POINTS, false, true)
    line[0] = 0.0
    return line, float(sk.auc(false, true))


def pr_curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, float] | None:
    """Precisions on `GRID_POINTS` of recalls, and the AP (their step-wise area).

    The precision at a recall is that of the first threshold that reaches it. None
    where no row is of the class.
    """
    if not truth.any():
        return None
    precision, recall, _ = sk.precision_recall_curve(truth, score)
    precision, recall = precision[::-1], recall[::-1]  # recall rises from 0
    # The first point (recall 0, precision 1) is scikit-learn's own, of no threshold.
    # A hair less, for what rounding does to equal recalls; 0 stands for the first gain.
    wanted = np.maximum(GRID_POINTS - 1e-9, 1e-9)
    at = np.searchsorted(recall[1:], wanted, side="left")
    line = precision[1:][np.minimum(at, len(precision) - 2)]
    return line, float(sk.average_precision_score(truth, score))


def roc(
    table: Predictions, classes: tuple[str, ...], *, unit: str, folder: Path
) -> Drawn:
    """ROC curves of each class against the rest."""
    with new(height=_height(classes)) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        _per_class(axes, table, classes, roc_curve, "AUC")
        axes.set(xlabel="false-positive rate (1 - specificity)")
        axes.set(ylabel="true-positive rate (sensitivity)")
        legend_below(figure, axes)
        return finish(
            figure,
            name=f"roc_{unit}",
            title=f"ROC curves, per {unit}",
            caption="Each class against the rest. Bold: mean over folds of the "
            "true-positive rate; thin: each fold. Dotted: chance.",
            folder=folder,
        )


def precision_recall(
    table: Predictions, classes: tuple[str, ...], *, unit: str, folder: Path
) -> Drawn:
    """Precision-recall curves of each class against the rest."""
    with new(height=_height(classes)) as (figure, axes):
        _per_class(axes, table, classes, pr_curve, "AP")
        axes.set(xlabel="recall (sensitivity)", ylabel="precision")
        legend_below(figure, axes)
        return finish(
            figure,
            name=f"pr_{unit}",
            title=f"Precision-recall curves, per {unit}",
            caption="Each class against the rest. Bold: mean over folds of the "
            "precision; thin: each fold. Chance is the share of the class.",
            folder=folder,
        )


def _height(classes: tuple[str, ...]) -> float:
    return 3.2 + 0.22 * len(classes)


def _per_class(axes, table, classes, curve: Curve, figure: str) -> None:
    folds = np.unique(table.fold)
    for k, name in enumerate(classes):
        of_fold = [table.rows(table.fold == fold) for fold in folds]
        curves = [curve(one.y == k, one.prob[:, k]) for one in of_fold]
        found = [one for one in curves if one is not None]
        color, dashes = SERIES[k % len(SERIES)], DASHES[k % len(DASHES)]
        label = wrapped(name, 26, lines=1)
        if not found:
            none = f"{label}: no {figure}"
            axes.plot([], [], color=color, linestyle=dashes, label=none)
            continue
        lines, areas = zip(*found, strict=True)
        spread = f" ± {100 * np.std(areas, ddof=1):.1f}" if len(areas) > 1 else ""
        axes.plot(
            GRID_POINTS,
            np.mean(lines, axis=0),
            color=color,
            linestyle=dashes,
            label=f"{label}: {figure} {100 * np.mean(areas):.1f}{spread}%",
        )
        if len(lines) > 1:
            axes.plot(
                GRID_POINTS,
                np.transpose(lines),
                color=color,
                linewidth=0.7,
                alpha=0.45,
                linestyle=dashes,
            )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))


def reliability(table: Predictions, *, unit: str, folder: Path) -> Drawn:
    """Accuracy against confidence in ten bins, and how many rows are in each."""
    found = calibration.reliability(table.y, table.prob)
    filled = found.count > 0
    width = float(found.edges[1])
    middle = (found.edges[:-1] + found.edges[1:]) / 2
    most = max(int(found.count.max()), 1)
    with new(height=3.9) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        axes.bar(
            middle,
            0.25 * found.count / most,  # a quarter of the height at most
            width=0.9 * width,
            color=GRID,
            linewidth=0,
            label=f"{unit}s in the bin (highest bar: {most})",
        )
        axes.plot(
            found.confidence[filled],
            found.accuracy[filled],
            color=SERIES[0],
            marker="o",
            markeredgecolor=CARD,
            markersize=9,
            clip_on=False,
            zorder=3,
            label="accuracy of the bin",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.set(xlabel="confidence (largest probability)", ylabel="accuracy")
        axes.text(0.03, 0.95, f"ECE {100 * found.ece:.2f}%", color=INK, va="top")
        legend_below(figure, axes)
        return finish(
            figure,
            name=f"reliability_{unit}",
            title=f"Reliability diagram, per {unit}",
            caption=f"All {len(table)} {unit}s of the finished folds, in "
            f"{calibration.BINS} bins of equal width; a point stands at the bin's mean "
            "confidence. Dotted: what is said is what happens. ECE: expected "
            "calibration error.",
            folder=folder,
        )
