"""Tables of the study on bags, as Markdown.

Intervals are of a bootstrap over bags and seeds together: in each replicate both are
drawn with replacement, the same ones for all rows. They cover the choice of bags and
the variation of training; with one seed, the bags alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.evaluation import paired
from fof_jax.evaluation.predictions import Predictions

RESULTS = Path(__file__).parents[1] / "results" / "bag_study"
REFERENCES = ("baseline", "FoF")
METRICS = ("auc", "accuracy")
FIGURES = ("pointing", "precision")
REPLICATES = 2000
UPPER = "deciding patches {area} of a bag of the upper grades"
Cells = Mapping[tuple[int, int], dict[str, Any]]


def name_of(row: str, seed: int, fold: int) -> str:
    """File name of a cell."""
    words = "".join(c if c.isalnum() or c in "._" else "-" for c in row)
    return f"{words}-{seed}-{fold}.json"


def read(folder: Path, rows: Sequence[str]) -> dict[str, Cells]:
    """Cells by row, of the (seed, fold) that all rows with a cell have.

    Rows are compared on the same cells; what only some have is left out, and so is a
    seed that lacks a fold which another has.
    """
    found: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["row"] in rows:
            found.setdefault(cell["row"], {})[cell["seed"], cell["fold"]] = cell
    common = set.intersection(*map(set, found.values())) if found else set()
    folds = {fold for _, fold in common}
    whole = {s for s, _ in common if all((s, fold) in common for fold in folds)}
    common = {(seed, fold) for seed, fold in common if seed in whole}
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
    return "\n\n".join(
        table(folder, rows, f"Share {folder.name}%", UPPER) for folder in order
    )


def table(folder: Path, rows: Sequence[str], title: str, masked: str) -> str:
    """One set: means over cells, and differences to `REFERENCES` with intervals.

    Args:
      folder: of the cells.
      rows: names, in order.
      title: of the set.
      masked: what the mean share of masked patches says, with `{area}`.
    """
    cells = read(folder, rows)
    if not cells or not next(iter(cells.values())):
        return f"{title}: no cell that all rows have."
    keys = list(next(iter(cells.values())))
    seeds, folds = sorted({s for s, _ in keys}), sorted({f for _, f in keys})
    scores = _scores(cells)
    area = np.mean(_known(_first(cells), "area"))
    lines = [
        f"{title}: {len(keys)} cells a row, folds {', '.join(map(str, folds))}, seeds "
        f"{', '.join(map(str, seeds))}; {masked.format(area=f'{100 * area:.1f}%')}; "
        "median seconds of a cell in brackets; ± between seeds.",
        "",
        "| row | AUC | accuracy | pointing | patch AP | "
        + " | ".join(f"AUC less {one}" for one in REFERENCES)
        + " |",
        "|" + "---|" * (5 + len(REFERENCES)),
    ]
    for row, own in cells.items():
        by_seed = [
            [np.mean([scores[row].values[metric][s, f] for f in folds]) for s in seeds]
            for metric in METRICS
        ]
        by_seed += [
            [np.mean(_known({k: c for k, c in own.items() if k[0] == s}, figure))
             for s in seeds]
            for figure in FIGURES
        ]  # fmt: skip
        seconds = np.median([c["seconds"]["wall"] for c in own.values()])
        shown = [_mean_and_deviation(values) for values in by_seed]
        shown += [_auc_difference(scores, row, other) for other in REFERENCES]
        lines.append(f"| {row} ({seconds:.0f} s) | " + " | ".join(shown) + " |")
    lines += ["", "Differences in pointing, then in patch AP, of the same bags:", ""]
    for row in cells:
        for other in REFERENCES:
            if row != other and other in cells:
                each = [_figure_difference(cells, row, other, f) for f in FIGURES]
                lines.append(f"* {row} less {other}: {each[0]}; {each[1]}")
    return "\n".join(lines)


def mean_auc(folder: Path, rows: Sequence[str]) -> dict[str, float]:
    """Mean AUC over the cells that all rows have."""
    cells = read(folder, rows)
    return {
        row: float(np.mean(list(one.values["auc"].values())))
        for row, one in (_scores(cells) if cells else {}).items()
    }


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


def _mean_and_deviation(values: Sequence[float]) -> str:
    """In percent; the standard deviation (ddof 1) where there are several."""
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def _auc_difference(
    scores: Mapping[str, paired.Replicates], row: str, other: str
) -> str:
    if row == other or other not in scores:
        return ""
    ours, reference = scores[row], scores[other]
    keys = list(ours.values["auc"])
    seeds, folds = sorted({s for s, _ in keys}), sorted({f for _, f in keys})

    def of_seeds(of: str) -> np.ndarray:
        both = [getattr(one, of)["auc"] for one in (ours, reference)]
        each = [[both[0][s, f] - both[1][s, f] for f in folds] for s in seeds]
        return np.nanmean(each, axis=1)  # a replicate may have no bag of a class

    replicates = of_seeds("draws")  # [S, R]
    means = np.einsum("rs,sr->r", _multiplicity(len(seeds)), replicates) / len(seeds)
    return _shown(float(of_seeds("values").mean()), means)


def _figure_difference(
    cells: Mapping[str, Cells], row: str, other: str, figure: str
) -> str:
    """Mean over seeds and bags of the difference of each."""
    seeds = sorted({seed for seed, _ in cells[row]})
    of_bag: dict[tuple[int, int], list[float]] = {}
    for key in sorted(cells[row]):  # seed by seed, so that a list is in their order
        cell, reference = cells[row][key], cells[other][key]
        for i, patient, a, b in zip(
            cell["rows"],
            cell["patient"],
            cell[figure],
            reference[figure],
            strict=True,
        ):
            if a is not None:  # no patch decides in the lowest grade
                of_bag.setdefault((i, patient), []).append(a - b)
    differences = np.array(list(of_bag.values()))  # [bags, S]
    _, number = np.unique([patient for _, patient in of_bag], return_inverse=True)
    sums = np.zeros((number.max() + 1, len(seeds)))
    np.add.at(sums, number, differences)
    sizes = np.bincount(number)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), size=REPLICATES
    )
    totals = np.einsum("rp,ps,rs->r", counts, sums, _multiplicity(len(seeds)))
    means = totals / (counts @ sizes) / len(seeds)
    return _shown(float(differences.mean()), means)


def _multiplicity(seeds: int) -> np.ndarray:
    """How often each replicate has each seed, [R, S]."""
    rng = np.random.default_rng(1)
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=REPLICATES)


def _shown(value: float, means: np.ndarray) -> str:
    """A difference with its 95% interval, in points."""
    low, high = np.nanpercentile(means, [2.5, 97.5])
    value, low, high = (f"{100 * x:+.1f}" for x in (value, low, high))
    return f"{value} ({low}, {high})"
