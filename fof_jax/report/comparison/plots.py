"""Sorted points with intervals, one plot per metric."""

from pathlib import Path

from fof_jax.evaluation.comparison import ALPHA, Comparison, Row
from fof_jax.evaluation.comparison_tables import NAMES
from fof_jax.report.style import (
    CARD,
    GRID,
    INK,
    SERIES,
    Plot,
    legend_below,
    new_figure,
    save_plot,
    wrapped,
)


def points(comparison: Comparison, folder: Path) -> tuple[Plot, ...]:
    """One plot per metric; see `_points`."""
    return tuple(_points(comparison, metric, folder) for metric in NAMES)


def _points(comparison: Comparison, metric: str, folder: Path) -> Plot:
    """Mean and interval of each row, the best on top.

    Points are filled where the row differs from the first reference after Holm's
    correction; rows of Table II are squares.
    """
    reference = next(iter(comparison.references), None)
    rows = [r for r in comparison.finished() if r.scores[metric].mean is not None]
    rows.sort(key=lambda row: row.scores[metric].mean or 0.0)
    name = NAMES[metric]
    height = 1.3 + 0.27 * max(len(rows), 3)
    with new_figure(height=height) as (figure, axes):
        for kind in ("reference", "I", "II", ""):
            own = [
                (i, row) for i, row in enumerate(rows) if _kind(row, reference) == kind
            ]
            for filled in (True, False):
                _draw(axes, metric, kind, filled, own, reference, comparison)
        axes.set_yticks(
            range(len(rows)), [wrapped(row.label, 22, lines=1) for row in rows]
        )
        axes.grid(visible=False, axis="y")
        for i in range(0, len(rows), 2):
            axes.axhspan(i - 0.5, i + 0.5, color=GRID, alpha=0.35, lw=0, zorder=0)
        axes.set(xlabel=f"{name} (%)", ylim=(-0.6, len(rows) - 0.4))
        legend_below(figure, axes)
        caption = "Mean over cells, 95% interval by patient. "
        if reference is not None:
            label = comparison.label_of(reference)
            caption += (
                f"Filled: differs from {label}, p at most {ALPHA} after Holm's "
                "correction; hollow: does not. "
            )
        return save_plot(
            figure,
            name=f"points_{metric}",
            title=f"{name} of each row",
            caption=caption.strip(),
            folder=folder,
        )


def _kind(row: Row, reference: str | None) -> str:
    return "reference" if row.name == reference else row.table


def _draw(axes, metric, kind, filled, own, reference, comparison) -> None:
    """Draws the rows of one kind that differ from the reference, or do not."""
    shown = [
        (i, row.scores[metric])
        for i, row in own
        if _differs(row, metric, reference) == filled
    ]
    if not shown:
        return
    color = {"reference": INK, "I": SERIES[0], "II": SERIES[1], "": SERIES[0]}[kind]
    marker = {"reference": "D", "I": "o", "II": "s", "": "o"}[kind]
    labels = {
        "reference": comparison.label_of(reference) if reference else "",
        "I": "image at test",
        "II": "image and omics at test",
        "": "run",
    }
    label = labels[kind]
    if kind != "reference" and reference is not None:
        label += f", {'differs' if filled else 'not distinguished'}"
    for i, score in shown:
        axes.plot(
            [100 * score.low, 100 * score.high], [i, i], color=color, linewidth=1.6
        )
    axes.plot(
        [100 * score.mean for _, score in shown],
        [i for i, _ in shown],
        linestyle="",
        marker=marker,
        color=color,
        markerfacecolor=color if filled or kind == "reference" else CARD,
        markersize=6,
        label=label,
        zorder=3,
    )


def _differs(row: Row, metric: str, reference: str | None) -> bool:
    one = row.differences.get(reference or "", {}).get(metric)
    return one is not None and one.p_holm <= ALPHA
