"""Tables of the study on bags, as Markdown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.evaluation import paired
from fof_jax.evaluation.patient_mean import patient_mean
from fof_jax.evaluation.predictions import Predictions

RESULTS = Path(__file__).parents[1] / "results" / "bag_study"
REFERENCES = ("baseline", "FoF")
METRICS = ("auc", "accuracy")
FIGURES = ("pointing", "precision")
REPLICATES = 2000
Cells = Mapping[tuple[int, int], dict[str, Any]]


def name_of(row: str, seed: int, fold: int) -> str:
    """File name of a cell."""
    words = "".join(c if c.isalnum() or c in "._" else "-" for c in row)
    return f"{words}-{seed}-{fold}.json"


def read(folder: Path, rows: Sequence[str]) -> dict[str, Cells]:
    """Cells by row, of the (seed, fold) that all rows with a cell have.

    Rows are compared on the same cells; what only some have is left out.
    """
    found: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["row"] in rows:
            found.setdefault(cell["row"], {})[cell["seed"], cell["fold"]] = cell
    common = set.intersection(*map(set, found.values())) if found else set()
    return {
        row: {key: found[row][key] for key in sorted(common)}
        for row in rows
        if row in found
    }


def tables(results: Path, rows: Sequence[str]) -> str:
    """The table of each share that has cells."""
    found = results.iterdir() if results.is_dir() else ()
    folders = [p for p in found if p.name.replace(".", "").isdigit()]
    order = sorted(folders, key=lambda p: float(p.name))
    return "\n\n".join(table(folder, rows) for folder in order)


def table(folder: Path, rows: Sequence[str]) -> str:
    """One share: means over cells, and differences to `REFERENCES` with intervals."""
    cells = read(folder, rows)
    if not cells or not next(iter(cells.values())):
        return f"Share {folder.name}%: no cell that all rows have."
    keys = list(next(iter(cells.values())))
    seeds, folds = sorted({s for s, _ in keys}), sorted({f for _, f in keys})
    scores = _scores(cells)
    area = np.mean(_known(_first(cells), "area"))
    lines = [
        f"Share {folder.name}%: {len(keys)} cells a row, folds "
        f"{', '.join(map(str, folds))}, seeds {', '.join(map(str, seeds))}; deciding "
        f"patches {100 * area:.1f}% of a bag of the upper grades; median seconds of a "
        "cell in brackets.",
        "",
        "| row | AUC | accuracy | pointing | patch AP | "
        + " | ".join(f"AUC less {one}" for one in REFERENCES)
        + " |",
        "|" + "---|" * (5 + len(REFERENCES)),
    ]
    for row, own in cells.items():
        means = [scores[row].mean(metric)[0] for metric in METRICS]
        means += [np.mean(_known(own, figure)) for figure in FIGURES]
        seconds = np.median([c["seconds"]["wall"] for c in own.values()])
        shown = [f"{100 * value:.1f}" for value in means]
        shown += [_auc_difference(scores, row, other) for other in REFERENCES]
        lines.append(f"| {row} ({seconds:.0f} s) | " + " | ".join(shown) + " |")
    lines += ["", "Differences in pointing, then in patch AP, of the same bags:", ""]
    for row in cells:
        for other in REFERENCES:
            if row != other and other in cells:
                each = [_figure_difference(cells, row, other, f) for f in FIGURES]
                lines.append(f"* {row} less {other}: {each[0]}; {each[1]}")
    return "\n".join(lines)


def _known(cells: Cells, figure: str) -> list[float]:
    """A figure of the bags that have deciding patches."""
    return [v for cell in cells.values() for v in cell[figure] if v is not None]


def _first(cells: Mapping[str, Cells]) -> Cells:
    return next(iter(cells.values()))


def _predictions(cell: dict[str, Any]) -> Predictions:
    n = len(cell["rows"])
    prob = np.array(cell["prob"])
    return Predictions(
        patient=tuple(map(str, cell["patient"])),
        image=tuple(map(str, cell["rows"])),
        fold=np.full(n, cell["fold"]),
        y=np.array(cell["y"]),
        prob=prob / prob.sum(axis=1, keepdims=True),  # they were rounded
        error=("",) * n,
    )


def _scores(cells: Mapping[str, Cells]) -> dict[str, paired.Replicates]:
    tested = {
        row: {key: _predictions(cell) for key, cell in own.items()}
        for row, own in cells.items()
    }
    any_row = next(iter(tested.values()))
    by_fold = {fold: table for (_, fold), table in any_row.items()}
    weights = paired.patient_weights(by_fold, replicates=REPLICATES)
    return {row: paired.replicates(own, weights) for row, own in tested.items()}


def _auc_difference(
    scores: Mapping[str, paired.Replicates], row: str, other: str
) -> str:
    if row == other or other not in scores:
        return ""
    found = paired.difference(scores[row], scores[other], "auc")
    if found is None:
        return ""
    ends = (found.value, found.low, found.high)
    value, low, high = (f"{100 * x:+.1f}" for x in ends)
    return f"{value} ({low}, {high})"


def _figure_difference(
    cells: Mapping[str, Cells], row: str, other: str, figure: str
) -> str:
    """Mean over seeds of each bag's difference, with an interval by patient."""
    differences: dict[tuple[int, int], list[float]] = {}
    for key, cell in cells[row].items():
        reference = cells[other][key]
        for i, patient, a, b in zip(
            cell["rows"],
            cell["patient"],
            cell[figure],
            reference[figure],
            strict=True,
        ):
            if a is not None:  # no patch decides in the lowest grade
                differences.setdefault((i, patient), []).append(a - b)
    found = patient_mean(
        [float(np.mean(each)) for each in differences.values()],
        [str(patient) for _, patient in differences],
        replicates=REPLICATES,
    )
    if found is None or found.low is None or found.high is None:
        return "-"
    ends = (found.mean, found.low, found.high)
    value, low, high = (f"{100 * x:+.1f}" for x in ends)
    return f"{value} ({low}, {high})"
