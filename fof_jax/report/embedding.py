"""The paper's Fig. 3: features in the plane by t-SNE, coloured by each biomarker."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import manifold
from sklearn import metrics as sk

from fof_jax.report.fold_model import Tested
from fof_jax.report.style import (
    MARKERS,
    MUTED,
    SERIES,
    STYLE,
    Drawn,
    finish,
    legend_below,
    new,
    wrapped,
)
from fof_jax.report.tables import Table

FEWEST = 6  # regions below which a picture of neighbourhoods says nothing
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """What points are coloured by.

    Attributes:
      name: of the biomarker, or "class".
      values: an integer a region; means nothing where `known` is False.
      known: True where it was measured.
      names: value -> what the legend calls it.
    """

    name: str
    values: Int[np.ndarray, " n"]
    known: Bool[np.ndarray, " n"]
    names: dict[int, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """The test regions of a fold as features and in the plane.

    Attributes:
      run: what legends call the run.
      fold: whose regions.
      features: v = g(x).
      plane: their t-SNE.
      labels: the class, then each biomarker.
    """

    run: str
    fold: int
    features: Float[np.ndarray, "n D"]
    plane: Float[np.ndarray, "n 2"]
    labels: tuple[Labels, ...]

    def named(self, name: str) -> Labels | None:
        """The labels of a name; another run may have other biomarkers."""
        return next((one for one in self.labels if one.name == name), None)


def embed(tested: Tested, run: str) -> Embedded:
    """Features of a fold's test regions, and their t-SNE (cosine distance, seed 0).

    Raises:
      ValueError: too few regions.
    """
    n = len(tested.rows)
    if n < FEWEST:
        raise ValueError(f"fold {tested.fold} tests {n} regions, fewer than {FEWEST}")
    features = tested.features()
    plane = manifold.TSNE(
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
    return Embedded(run, tested.fold, features, plane, tuple(labels))


def silhouette(features: Float[np.ndarray, "n D"], labels: Labels) -> float | None:
    """Mean silhouette of the known regions, by cosine distance of their features.

    1: groups far apart, 0: they overlap, below 0: regions stand nearer to another
    group. None where there are not two groups, or none has two members.
    """
    values = labels.values[labels.known]
    groups = len(np.unique(values))
    if not 2 <= groups < len(values):
        return None
    known = features[labels.known]
    return float(sk.silhouette_score(known, values, metric="cosine"))


def table(embedded: Sequence[Embedded]) -> Table:
    """Silhouettes, a row a label, a pair of columns a run."""
    head = ["coloured by"]
    for one in embedded:
        head += [f"{one.run}, silhouette", "known regions"]
    rows = []
    for name in [labels.name for labels in embedded[0].labels]:
        cells = [name]
        for one in embedded:
            labels = one.named(name)
            if labels is None:
                cells += ["not in it", ""]
                continue
            found = silhouette(one.features, labels)
            cells.append("none" if found is None else f"{found:.3f}")
            cells.append(str(int(labels.known.sum())))
        rows.append(tuple(cells))
    return Table(
        "Mean silhouette of the features (cosine distance, -1 to 1): how far regions "
        "of one value stand together. Test regions of one fold; regions whose value is "
        "unknown are left out.",
        tuple(head),
        tuple(rows),
    )


def figures(embedded: Sequence[Embedded], folder: Path) -> list[Drawn]:
    """A figure a label and run, side by side; tsne_all has them in one file."""
    drawn = []
    for i, name in enumerate(labels.name for labels in embedded[0].labels):
        for j, one in enumerate(embedded):
            labels = one.named(name)
            if labels is None:
                continue
            with new() as (figure, axes):
                _scatter(axes, one, labels)
                legend_below(figure, axes, columns=2)
                drawn.append(
                    finish(
                        figure,
                        name=f"tsne_{i}_{_plain(name)}{'_versus' * j}",
                        title=f"{name}, {one.run}",
                        caption=f"t-SNE of the features of {len(one.plane)} test "
                        f"regions, fold {one.fold}; {_figure(one, labels)}.",
                        folder=folder,
                    )
                )
    _together(embedded, folder)
    return drawn


def _scatter(axes: Axes, one: Embedded, labels: Labels) -> None:
    unknown = one.plane[~labels.known]
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
            one.plane[at, 0],
            one.plane[at, 1],
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


def _together(embedded: Sequence[Embedded], folder: Path) -> None:
    """The whole of Fig. 3 in one file: a row a run, a column a label."""
    names = [labels.name for labels in embedded[0].labels]
    rows, columns = len(embedded), len(names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns, 3.4 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for row, one in zip(panels, embedded, strict=True):
            for axes, name in zip(row, names, strict=True):
                labels = one.named(name)
                if labels is None:
                    axes.set_axis_off()
                    continue
                _scatter(axes, one, labels)
                axes.set(xlabel="", ylabel="")
                axes.set_title(f"{wrapped(labels.name, 20, 1)}\n{_figure(one, labels)}")
                axes.legend(  # below: inside it would cover points
                    fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0)
                )
            row[0].set_ylabel(wrapped(one.run, 20, 1))
        finish(figure, name="tsne_all", title="t-SNE", caption="", folder=folder)


def _figure(one: Embedded, labels: Labels) -> str:
    found = silhouette(one.features, labels)
    return "no silhouette" if found is None else f"silhouette {found:.3f}"


def _plain(name: str) -> str:
    """Of letters that a file name and an id may have."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
