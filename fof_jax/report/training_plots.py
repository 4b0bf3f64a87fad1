"""Training curves: every logged metric over epochs, one line per fold."""

from pathlib import Path

import numpy as np

from fof_jax.report.run import Run
from fof_jax.report.style import (
    DASHES,
    SERIES,
    Plot,
    legend_below,
    new_figure,
    save_plot,
    wrapped,
)

POINTS = 120  # per line; longer histories are averaged
# Key of metrics.jsonl -> title and unit; other keys are their own title.
TITLES = {
    "total": ("Total loss L", "nats"),
    "cls": ("Cross-entropy, all views", "nats"),
    "cls_glb": ("Cross-entropy, global view", "nats"),
    "cls_pos": ("Cross-entropy, positive view", "nats"),
    "cls_neg": ("Cross-entropy, negative view", "nats"),
    "frl": ("Focus consistency, L_FRL", "nats"),
    "mca": ("Alignment with biomarkers, L_MCA", "nats"),
    "kept": ("Patches kept by M", "fraction"),
    "learning_rate": ("Learning rate", "no unit"),
    "grad_norm": ("Gradient norm", "no unit"),
    "validation_loss": ("Cross-entropy, validation", "nats"),
    "validation_accuracy": ("Accuracy, validation", "fraction"),
    "validation_auc": ("Micro AUC, validation", "fraction"),
    "test_accuracy": ("Accuracy on the test fold", "fraction"),
}


def curves(run: Run, folder: Path) -> list[Plot]:
    """One plot per metric, those of `TITLES` first."""
    logged = {
        name: None
        for fold in run.folds
        for line in fold.history
        for name in line
        if name not in ("step", "epoch")
    }
    names = [name for name in TITLES if name in logged]
    names += sorted(name for name in logged if name not in TITLES)
    return [_curve(run, name, folder) for name in names]


def _curve(run: Run, name: str, folder: Path) -> Plot:
    title, unit = TITLES.get(name, (name.replace("_", " "), "no unit"))
    with new_figure(height=3.2) as (figure, axes):
        for fold in run.folds:
            epochs, values = series(fold.history, name)
            if len(epochs):
                axes.plot(
                    epochs,
                    values,
                    color=SERIES[fold.number % len(SERIES)],
                    linestyle=DASHES[fold.number % len(DASHES)],
                    linewidth=1.6,
                    marker="o" if len(epochs) < 12 else None,
                    markersize=4,
                    label=str(fold.number),
                )
        axes.set(xlabel="epoch", ylabel=f"{wrapped(title)}\n({unit})")
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        legend_below(figure, axes, columns=5, title="fold")
        return save_plot(
            figure,
            name=f"training_{name}",
            title=title,
            caption=f"{name} of metrics.jsonl.",
            folder=folder,
        )


def series(
    history: tuple[dict[str, float | int], ...], name: str, points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a logged metric, at most `points` of them.

    Longer series are split into intervals of equal length, which are averaged.

    Args:
      history: lines of metrics.jsonl; some have `epoch`, all have `step`, the number
        of completed steps.
      name: of the metric.
      points: maximum number of points.
    """
    per_epoch = next(
        (
            (line["step"] - 1) / line["epoch"]
            for line in reversed(history)
            if line.get("epoch")
        ),
        1.0,
    )
    lines = [line for line in history if name in line]
    epochs = np.array([line["step"] / per_epoch for line in lines])
    values = np.array([line[name] for line in lines], float)
    if len(lines) <= points:
        return epochs, values
    parts = np.array_split(np.arange(len(lines)), points)
    return (
        np.array([epochs[part].mean() for part in parts]),
        np.array([values[part].mean() for part in parts]),
    )
