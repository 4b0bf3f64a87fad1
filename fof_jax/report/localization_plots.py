"""Localization metrics: A and M against masks of diagnostic structures."""

from pathlib import Path
from typing import Any

from fof_jax.evaluation.tables import percent
from fof_jax.report.style import (
    MARKERS,
    MUTED,
    SERIES,
    Plot,
    legend_below,
    new_figure,
    save_plot,
    wrapped,
)
from fof_jax.report.tables import Table

# Metrics that are not listed are shown by their keys.
NAMES = {
    "pointing": "pointing game",
    "inside": "fraction of A inside",
    "area": "fraction of area (chance)",
    "iou": "IoU of M",
    "deletion": "deletion (lower is better)",
    "insertion": "insertion",
}
MEANING = (
    "Measured on the test regions that contain annotated structures. Pointing game: "
    "the maximum of A is on a structure. Inside: the fraction of the sum of A on "
    "structures; an uninformative map has their fraction of the area. IoU: M against "
    "the patches that they cover. Deletion and insertion: area under the curve of the "
    "true class's probability while patches are removed, or added, in the order of A."
)


def table(metrics: dict[str, Any]) -> Table:
    """One row per metric: mean ± std over folds, then each class over all folds."""
    classes = metrics.get("classes", {})
    rows = [
        (
            NAMES.get(name, name),
            percent(mean, metrics["std"].get(name)),
            *(percent(one.get(name), None) for one in classes.values()),
        )
        for name, mean in metrics["mean"].items()
    ]
    counts = [str(one.get("regions", "")) for one in classes.values()]
    rows.append(("regions", str(metrics["regions"]), *counts))
    return Table(
        "In %: mean ± std over folds, and each class over all folds.",
        ("metric", "mean ± std", *classes),
        tuple(rows),
    )


def plot(metrics: dict[str, Any], folder: Path) -> Plot:
    """Dot plot of the table: one line per metric, markers for classes and mean."""
    names = [name for name, mean in metrics["mean"].items() if mean is not None]
    with new_figure(height=1.8 + 0.42 * len(names)) as (figure, axes):
        for i, (label, one) in enumerate(metrics.get("classes", {}).items()):
            known = [k for k, name in enumerate(names) if one.get(name) is not None]
            axes.plot(
                [100 * one[names[k]] for k in known],
                known,
                color=SERIES[i % len(SERIES)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle="none",
                markersize=8,
                alpha=0.85,
                label=wrapped(label, 18, 1),
            )
        axes.errorbar(
            [100 * metrics["mean"][name] for name in names],
            range(len(names)),
            xerr=[100 * (metrics["std"].get(name) or 0.0) for name in names],
            color=MUTED,
            marker="|",
            markersize=16,
            linestyle="none",
            capsize=3,
            label="mean ± std over folds",
        )
        axes.set_yticks(range(len(names)), [NAMES.get(n, n) for n in names])
        axes.invert_yaxis()
        axes.set(xlabel="%")
        axes.set_xlim(left=0)
        legend_below(figure, axes, columns=2)
        return save_plot(
            figure,
            name="focus",
            title="Localization",
            caption=f"{metrics['regions']} regions with annotated structures.",
            folder=folder,
        )
