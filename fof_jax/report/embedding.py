"""t-SNE of the features, colored by class and biomarkers, as in the paper's Fig. 3."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fof_jax.evaluation import alignment
from fof_jax.report.fold_model import TestedFold
from fof_jax.report.style import (
    MARKERS,
    MUTED,
    SERIES,
    STYLE,
    Plot,
    legend_below,
    new_figure,
    save_plot,
    wrapped,
)
from fof_jax.report.tables import Table

MIN_REGIONS = 6  # t-SNE of fewer is meaningless
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Labels that points are colored by.

    Attributes:
      name: of the biomarker, or "class".
      values: one integer per region; undefined where `known` is False.
      known: whether the value is known.
      names: value -> name in the legend.
    """

    name: str
    values: Int[np.ndarray, " n"]
    known: Bool[np.ndarray, " n"]
    names: dict[int, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Features and t-SNE of the test regions of a fold.

    Attributes:
      run: name of the run in legends.
      fold: number of the fold.
      features: v = g(x).
      points: their t-SNE.
      labels: the class, then each biomarker.
    """

    run: str
    fold: int
    features: Float[np.ndarray, "n D"]
    points: Float[np.ndarray, "n 2"]
    labels: tuple[Labels, ...]

    def named(self, name: str) -> Labels | None:
        """Labels by name; None if the run does not have that biomarker."""
        return next((one for one in self.labels if one.name == name), None)


def embed(tested: TestedFold, run: str) -> Embedding:
    """Computes features of the test regions and their t-SNE (cosine distance, seed 0).

    Raises:
      ValueError: too few regions.
    """
    n = len(tested.rows)
    if n < MIN_REGIONS:
        raise ValueError(
            f"fold {tested.fold} tests {n} regions, fewer than {MIN_REGIONS}"
        )
    from sklearn import manifold  # a second

    features = tested.features()
    points = manifold.TSNE(
        perplexity=min(PERPLEXITY, (n - 1) / 3),
        metric="cosine",  # as in Eq. (4) and (5)
        init="random" if features.shape[1] < 2 else "pca",
        random_state=0,
    ).fit_transform(features.astype(np.float32))
    data, rows = tested.data, tested.rows
    labels = [
        Labels(
            "class",
            data.grades[rows],
            np.ones(n, bool),
            dict(enumerate(data.classes)),
        )
    ]
    for k, name in enumerate(data.biomarkers):
        values = data.biomarker_values[rows, k]
        labels.append(
            Labels(
                name,
                values,
                data.known[rows, k],
                {v: str(v) for v in np.unique(values).tolist()},
            )
        )
    return Embedding(run, tested.fold, features, points, tuple(labels))


def silhouette(features: Float[np.ndarray, "n D"], labels: Labels) -> float | None:
    """Mean silhouette of the regions with known values, by cosine distance.

    1: well separated, 0: overlapping, below 0: regions are closer to another group.
    None with fewer than two groups, or if every group has one member.
    """
    known = features[labels.known]
    return alignment.silhouette(known, labels.values[labels.known])


def table(embeddings: Sequence[Embedding]) -> Table:
    """Silhouettes, one row per label, two columns per run."""
    header = ["colored by"]
    for one in embeddings:
        header += [f"{one.run}, silhouette", "known regions"]
    rows = []
    for name in [labels.name for labels in embeddings[0].labels]:
        cells = [name]
        for one in embeddings:
            labels = one.named(name)
            if labels is None:
                cells += ["not available", ""]
                continue
            value = silhouette(one.features, labels)
            cells.append("none" if value is None else f"{value:.3f}")
            cells.append(str(int(labels.known.sum())))
        rows.append(tuple(cells))
    return Table(
        "Mean silhouette of the features (cosine distance, -1 to 1): how well regions "
        "of equal value cluster. Test regions of one fold, without those whose value "
        "is unknown.",
        tuple(header),
        tuple(rows),
    )


def plots(embeddings: Sequence[Embedding], folder: Path) -> list[Plot]:
    """One plot per label and run, side by side; tsne_all has them in one file."""
    saved = []
    for i, name in enumerate(labels.name for labels in embeddings[0].labels):
        for j, one in enumerate(embeddings):
            labels = one.named(name)
            if labels is None:
                continue
            with new_figure() as (figure, axes):
                _scatter(axes, one, labels)
                legend_below(figure, axes, columns=2)
                saved.append(
                    save_plot(
                        figure,
                        name=f"tsne_{i}_{_slug(name)}{'_versus' * j}",
                        title=f"{name}, {one.run}",
                        caption=f"t-SNE of the features of {len(one.points)} test "
                        f"regions, fold {one.fold}; {_silhouette_text(one, labels)}.",
                        folder=folder,
                    )
                )
    _plot_all(embeddings, folder)
    return saved


def _scatter(axes: Axes, one: Embedding, labels: Labels) -> None:
    unknown = one.points[~labels.known]
    if len(unknown):
        axes.scatter(
            unknown[:, 0],
            unknown[:, 1],
            s=14,
            facecolor="none",
            edgecolor=MUTED,
            label="unknown",
        )
    for i, value in enumerate(np.unique(labels.values[labels.known]).tolist()):
        at = labels.known & (labels.values == value)
        axes.scatter(
            one.points[at, 0],
            one.points[at, 1],
            s=22,
            color=SERIES[i % len(SERIES)],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=0,
            alpha=0.85,
            label=f"{wrapped(labels.names[value], 18, 1)} ({int(at.sum())})",
        )
    axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
    axes.set_xticks([])
    axes.set_yticks([])


def _plot_all(embeddings: Sequence[Embedding], folder: Path) -> None:
    """All plots in one file: one row per run, one column per label."""
    names = [labels.name for labels in embeddings[0].labels]
    rows, columns = len(embeddings), len(names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns, 3.4 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for row, one in zip(panels, embeddings, strict=True):
            for axes, name in zip(row, names, strict=True):
                labels = one.named(name)
                if labels is None:
                    axes.set_axis_off()
                    continue
                _scatter(axes, one, labels)
                axes.set(xlabel="", ylabel="")
                axes.set_title(
                    f"{wrapped(labels.name, 20, 1)}\n{_silhouette_text(one, labels)}"
                )
                axes.legend(  # inside, it would cover points
                    fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0)
                )
            row[0].set_ylabel(wrapped(one.run, 20, 1))
        save_plot(figure, name="tsne_all", title="t-SNE", caption="", folder=folder)


def _silhouette_text(one: Embedding, labels: Labels) -> str:
    value = silhouette(one.features, labels)
    return "no silhouette" if value is None else f"silhouette {value:.3f}"


def _slug(name: str) -> str:
    """Restricts a name to characters that are safe in file names and ids."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
