"""Plots of predictions: confusion matrix, ROC, precision-recall, reliability."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from fof_jax.evaluation import abstention, calibration
from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.report.style import (
    CARD,
    DASHES,
    GRID,
    INK,
    MUTED,
    SERIES,
    Plot,
    legend_below,
    new_figure,
    save_plot,
    wrapped,
)

GRID_POINTS = np.linspace(0.0, 1.0, 201)  # curves of folds are averaged at these
Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float] | None]


def scored(predictions: Predictions) -> Predictions:
    """Rows without error and with a known class."""
    return predictions.rows(predictions.ok & (predictions.y != UNKNOWN))


def confusion(
    counts: Float[np.ndarray, "K K"],
    classes: tuple[str, ...],
    *,
    unit: str,
    folder: Path,
) -> Plot:
    """Confusion matrix; shading shows the fraction of the row.

    Args:
      counts: sum over folds; rows are true classes.
      classes: names of the classes.
      unit: region or patient.
      folder: for the files.
    """
    k = len(classes)
    fraction = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = list(classes)
    columns = names
    if any(len(name) > 8 for name in names):  # too long for column labels
        names = [wrapped(f"{i}: {name}", 19) for i, name in enumerate(classes, 1)]
        columns = [str(i) for i in range(1, k + 1)]
    with new_figure() as (figure, axes):
        axes.grid(False)
        for i in range(k):
            for j in range(k):
                axes.fill(
                    np.array([-0.5, 0.5, 0.5, -0.5]) + j,
                    np.array([-0.5, -0.5, 0.5, 0.5]) + i,
                    facecolor=SERIES[0],
                    alpha=0.6 * fraction[i, j],
                    linewidth=0,
                )
                axes.text(
                    j,
                    i,
                    f"{counts[i, j]:.0f}\n{100 * fraction[i, j]:.0f}%",
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
        return save_plot(
            figure,
            name=f"confusion_{unit}",
            title=f"Confusion matrix, per {unit}",
            caption=f"Number of {unit}s and fraction of the true class, sum over "
            "folds; bold: correct.",
            folder=folder,
        )


def roc_curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, float] | None:
    """True-positive rates on `GRID_POINTS` of false-positive rates, and the AUC.

    None if all labels are equal.
    """
    if truth.all() or not truth.any():
        return None
    from sklearn import metrics as sk

    false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    line = np.interp(GRID_POINTS, false, true)
    line[0] = 0.0
    return line, float(sk.auc(false, true))


def pr_curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, float] | None:
    """Precisions on `GRID_POINTS` of recalls, and the AP (their step-wise area).

    The precision at a recall is that of the first threshold that reaches it. None if
    no row is of the class.
    """
    if not truth.any():
        return None
    from sklearn import metrics as sk

    precision, recall, _ = sk.precision_recall_curve(truth, score)
    precision, recall = precision[::-1], recall[::-1]  # recall rises from 0
    # scikit-learn adds the first point (recall 0, precision 1), which has no threshold:
    # recall 0 uses the first positive recall. 1e-9: tolerance for rounding.
    at_least = np.maximum(GRID_POINTS - 1e-9, 1e-9)
    at = np.searchsorted(recall[1:], at_least, side="left")
    line = precision[1:][np.minimum(at, len(precision) - 2)]
    return line, float(sk.average_precision_score(truth, score))


def roc(
    table: Predictions, classes: tuple[str, ...], *, unit: str, folder: Path
) -> Plot:
    """ROC curves, one class against the rest."""
    with new_figure(height=_height(classes)) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        _per_class(axes, table, classes, roc_curve, "AUC")
        axes.set(xlabel="false-positive rate (1 - specificity)")
        axes.set(ylabel="true-positive rate (sensitivity)")
        legend_below(figure, axes)
        return save_plot(
            figure,
            name=f"roc_{unit}",
            title=f"ROC curves, per {unit}",
            caption="One class against the rest. Bold: mean true-positive rate over "
            "folds; thin: single folds. Dotted: chance.",
            folder=folder,
        )


def precision_recall(
    table: Predictions, classes: tuple[str, ...], *, unit: str, folder: Path
) -> Plot:
    """Precision-recall curves, one class against the rest."""
    with new_figure(height=_height(classes)) as (figure, axes):
        _per_class(axes, table, classes, pr_curve, "AP")
        axes.set(xlabel="recall (sensitivity)", ylabel="precision")
        legend_below(figure, axes)
        return save_plot(
            figure,
            name=f"pr_{unit}",
            title=f"Precision-recall curves, per {unit}",
            caption="One class against the rest. Bold: mean precision over folds; "
            "thin: single folds. Chance level: prevalence of the class.",
            folder=folder,
        )


def _height(classes: tuple[str, ...]) -> float:
    return 3.2 + 0.22 * len(classes)


def _per_class(axes, table, classes, curve: Curve, metric: str) -> None:
    folds = np.unique(table.fold)
    for k, name in enumerate(classes):
        per_fold = [table.rows(table.fold == fold) for fold in folds]
        results = [curve(one.y == k, one.prob[:, k]) for one in per_fold]
        curves = [one for one in results if one is not None]
        color, dashes = SERIES[k % len(SERIES)], DASHES[k % len(DASHES)]
        label = wrapped(name, 26, lines=1)
        if not curves:
            undefined = f"{label}: no {metric}"
            axes.plot([], [], color=color, linestyle=dashes, label=undefined)
            continue
        lines, areas = zip(*curves, strict=True)
        std = f" ± {100 * np.std(areas, ddof=1):.1f}" if len(areas) > 1 else ""
        axes.plot(
            GRID_POINTS,
            np.mean(lines, axis=0),
            color=color,
            linestyle=dashes,
            label=f"{label}: {metric} {100 * np.mean(areas):.1f}{std}%",
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


def reliability(table: Predictions, *, unit: str, folder: Path) -> Plot:
    """Reliability diagram: accuracy against confidence in bins, and their counts."""
    bins = calibration.reliability(table.y, table.prob)
    nonempty = bins.count > 0
    width = float(bins.edges[1])
    centers = (bins.edges[:-1] + bins.edges[1:]) / 2
    largest = max(int(bins.count.max()), 1)
    with new_figure(height=3.9) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        axes.bar(
            centers,
            0.25 * bins.count / largest,  # at most a quarter of the height
            width=0.9 * width,
            color=GRID,
            linewidth=0,
            label=f"{unit}s in the bin (highest bar: {largest})",
        )
        axes.plot(
            bins.confidence[nonempty],
            bins.accuracy[nonempty],
            color=SERIES[0],
            marker="o",
            markeredgecolor=CARD,
            markersize=9,
            clip_on=False,
            zorder=3,
            label="accuracy in the bin",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.set(xlabel="confidence (largest probability)", ylabel="accuracy")
        axes.text(0.03, 0.95, f"ECE {100 * bins.ece:.2f}%", color=INK, va="top")
        legend_below(figure, axes)
        return save_plot(
            figure,
            name=f"reliability_{unit}",
            title=f"Reliability diagram, per {unit}",
            caption=f"All {len(table)} {unit}s of the finished folds, in "
            f"{calibration.BINS} bins of equal width, plotted at their mean "
            "confidence. Dotted: perfect calibration. ECE: expected calibration error.",
            folder=folder,
        )


def coverage_risk(table: Predictions, *, unit: str, folder: Path) -> Plot:
    """Risk against coverage: the error of what is answered, by margin."""
    coverage, risk = abstention.coverage_risk(table.y, table.prob)
    area = abstention.area(coverage, risk)
    with new_figure(height=3.9) as (figure, axes):
        axes.axhline(risk[-1], color=MUTED, linewidth=1, linestyle=":")
        axes.plot(coverage, risk, color=SERIES[0], linewidth=2)
        axes.set(xlim=(0, 1), ylim=(0, max(float(risk.max()), 0.01) * 1.1))
        axes.set(xlabel=f"coverage (fraction of {unit}s answered)", ylabel="error")
        axes.text(0.03, 0.92, f"mean {100 * area:.1f}%", color=INK, va="top",
                  transform=axes.transAxes)  # fmt: skip
        return save_plot(
            figure,
            name=f"coverage_risk_{unit}",
            title=f"Error against coverage, per {unit}",
            caption=f"All {len(table)} {unit}s of the finished folds, answered in the "
            "order of the margin of their two largest probabilities. Dotted: the error "
            "when all are answered. Mean: over all coverages.",
            folder=folder,
        )
