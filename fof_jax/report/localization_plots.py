"""Focus figures of results.json: A and M against masks of diagnostic structures."""

from pathlib import Path
from typing import Any

from fof_jax.evaluation.tables import percent
from fof_jax.report.style import (
    MARKERS,
    MUTED,
    SERIES,
    Drawn,
    finish,
    legend_below,
    new,
    wrapped,
)
from fof_jax.report.tables import Table

# Others that results.json may have go by their own names.
NAMES = {
    "pointing": "pointing game",
    "inside": "share of A inside",
    "area": "share of area (chance)",
    "iou": "IoU of M",
    "deletion": "deletion (low is good)",
    "insertion": "insertion",
}
MEANING = (
    "Measured on the test regions that have structures. Pointing game: the highest "
    "point of A is on one. Inside: the share of the sum of A that lies on them; a map "
    "that knows nothing has their share of the area. IoU: M against the patches that "
    "they cover. Deletion and insertion: area under the probability of the true class "
    "while patches are hidden, or shown, in the order of A."
)


def table(found: dict[str, Any]) -> Table:
    """A row a figure: mean ± std over folds, then each class, all folds together."""
    classes = found.get("classes", {})
    rows = [
        (
            NAMES.get(name, name),
            percent(mean, found["std"].get(name)),
            *(percent(one.get(name), None) for one in classes.values()),
        )
        for name, mean in found["mean"].items()
    ]
    counts = [str(one.get("regions", "")) for one in classes.values()]
    rows.append(("regions", str(found["regions"]), *counts))
    return Table(
        "In %: mean ± std over folds, and the regions of each class together.",
        ("figure", "mean ± std", *classes),
        tuple(rows),
    )


def figure(found: dict[str, Any], folder: Path) -> Drawn:
    """The same as points: a line a figure, a marker a class and one for the mean."""
    names = [name for name, mean in found["mean"].items() if mean is not None]
    with new(height=1.8 + 0.42 * len(names)) as (sheet, axes):
        for i, (label, one) in enumerate(found.get("classes", {}).items()):
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
            [100 * found["mean"][name] for name in names],
            range(len(names)),
            xerr=[100 * (found["std"].get(name) or 0.0) for name in names],
            color=MUTED,
            marker="|",
            markersize=16,
            linestyle="none",
            capsize=3,
            label="mean ± std over folds",
        )
        axes.set_yticks(range(len(names)), [NAMES.get(n, n) for n in names])
        axes.invert_yaxis()
        axes.set(xlabel="share or area, %")
        axes.set_xlim(left=0)
        legend_below(sheet, axes, columns=2)
        return finish(
            sheet,
            name="focus",
            title="Focus against masks",
            caption=f"{found['regions']} regions with structures.",
            folder=folder,
        )
