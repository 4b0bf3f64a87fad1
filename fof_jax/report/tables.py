"""The tables of the page, as rows of text."""

import dataclasses
from typing import Any

import numpy as np

from fof_jax.evaluation import bootstrap, metrics
from fof_jax.evaluation.metrics import Average
from fof_jax.evaluation.predictions import Predictions
from fof_jax.evaluation.tables import COLUMNS, PAPER_ROWS, describe_split, percent
from fof_jax.report.run import Run
from fof_jax.training.build import flat

NAMES = {
    "auc": "AUC",
    "ap": "AP",
    "accuracy": "Accuracy",
    "kappa": "Kappa",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text, the first row and the first column naming the others.

    Attributes:
      caption: what stands in it, with units and conditions.
      head: names of the columns.
      rows: one a line; the first cell names it.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def results(run: Run, versus: Run | None, *, replicates: int) -> list[Table]:
    """Mean ± std with intervals by patient, for each unit and averaging there is."""
    tables = []
    for unit in ("region", "patient"):
        for average in metrics.AVERAGES:
            table = _results(run, versus, unit, average, replicates)
            if table is not None:
                tables.append(table)
    return tables


def _results(
    run: Run, versus: Run | None, unit: str, average: Average, replicates: int
) -> Table | None:
    if run.results is None or run.results["units"][unit] is None:
        return None
    head = ["%"]
    columns: list[list[str]] = []
    # The paper's figures are per region and micro-averaged.
    like_the_papers = (unit, average) == ("region", "micro")
    for one in (run, versus):
        if one is None or one.joined is None or one.results is None:
            continue
        if one.results["units"][unit] is None:
            continue
        name = "this run" if one is run else f"versus: {one.name}"
        head += [f"{name}, mean ± std", "95% interval"]
        figures = one.results["units"][unit][average]
        columns.append([percent(figures["mean"][f], figures["std"][f]) for f in NAMES])
        drawn = bootstrap.confidence_intervals(
            of_unit(one.joined, unit), average=average, replicates=replicates
        )
        columns.append([_interval(drawn.get(figure)) for figure in NAMES])
        if like_the_papers and one.paper_row in PAPER_ROWS:
            head.append(f"{one.paper_row} (paper, Table I)")
            printed = dict(zip(COLUMNS, PAPER_ROWS[one.paper_row], strict=True))
            columns.append(
                [
                    f"{printed[f][0]:.2f} ± {printed[f][1]:.2f}" if f in printed else ""
                    for f in NAMES
                ]
            )
    rows = [
        (name, *(column[i] for column in columns))
        for i, name in enumerate(NAMES.values())
    ]
    caption = f"Per {unit}, {average}-averaged; {conditions(run, unit)}."
    if versus is not None:
        caption += f" Versus: {conditions(versus, unit)}."
    return Table(caption, tuple(head), tuple(rows))


def conditions(run: Run, unit: str) -> str:
    """What a figure of a run rests on: split, folds, number, aggregation."""
    results = run.results
    if results is None or results["units"][unit] is None:
        return "no finished fold"
    text = (
        f"{describe_split(run.scheme)}, {len(run.finished)} of {len(run.folds)} folds, "
    )
    text += f"{results['units'][unit]['n']} {unit}s"
    if unit == "patient":
        text += f" ({results['aggregate']} of probabilities over a patient's images)"
    return text


def of_unit(table: Predictions, unit: str) -> Predictions:
    """Predictions of regions, a row a region or a row a patient."""
    return table if unit == "region" else metrics.by_patient(table)


def per_fold(run: Run) -> Table:
    """A row a fold: state, number of regions, micro-averaged figures per region."""
    figures: dict[str, Any] = {}
    if run.results is not None and run.results["units"]["region"] is not None:
        figures = run.results["units"]["region"]["micro"]["folds"]
    rows = []
    for fold in run.folds:
        one = figures.get(str(fold.number))
        cells = ["", *[""] * len(NAMES)]
        if one is not None:
            cells = [str(one["n"]), *(percent(one[f], None) for f in NAMES)]
        rows.append((f"fold {fold.number}", fold.state, *cells))
    return Table(
        f"Each fold, per region, micro-averaged, in %; {describe_split(run.scheme)}.",
        ("", "state", "regions", *NAMES.values()),
        tuple(rows),
    )


def per_class(run: Run, unit: str) -> Table | None:
    """AUC of each class against the rest, with recall and precision."""
    if run.results is None or run.results["units"][unit] is None:
        return None
    figures = run.results["units"][unit]
    confusion = np.array(figures["confusion"])
    rows = []
    for k, name in enumerate(run.classes):
        auc = figures["auc_per_class"][k]
        truth, called = int(confusion[k].sum()), int(confusion[:, k].sum())
        right = int(confusion[k, k])
        rows.append(
            (
                name,
                percent(auc["mean"], auc["std"]),
                _share(right, truth),
                _share(right, called),
                str(truth),
            )
        )
    return Table(
        f"Each class against the rest, per {unit}, in %: AUC as mean ± std over folds, "
        "recall and precision of all folds together.",
        ("class", "AUC", "recall", "precision", f"{unit}s"),
        tuple(rows),
    )


def counts(run: Run) -> Table | None:
    """Regions and patients on both sides of every fold, and test regions a class."""
    if run.splits is None:
        return None
    rows = []
    for fold in run.splits["folds"]:
        train, test = fold["train"], fold["test"]
        sides = [
            f"{side['regions']} / {side['patients']}" for side in (train, test)
        ]  # fmt: skip
        each = [
            f"{train['classes'].get(name, 0)} / {test['classes'].get(name, 0)}"
            for name in run.classes
        ]
        rows.append((f"fold {fold['fold']}", *sides, *each))
    return Table(
        f"Regions / patients in training and testing, and regions of each class in "
        f"training / testing; {describe_split(run.scheme)}; seed {run.splits['seed']}.",
        ("", "training", "testing", *run.classes),
        tuple(rows),
    )


def configuration(run: Run) -> Table:
    """Every field by its flat name."""
    rows = tuple((name, _plain(value)) for name, value in flat(run.config).items())
    return Table("The configuration of the run.", ("field", "value"), rows)


def origin(run: Run) -> Table:
    """What the run was made with."""
    made = dict(run.made_with)
    packages = made.pop("packages", {})
    rows = [(name, _plain(version)) for name, version in packages.items()]
    rows += [(name.replace("_", " "), _plain(value)) for name, value in made.items()]
    rows.append(("hash of the table", run.table_hash))
    begun = run.config["init"]["checkpoint"]
    rows.append(("training began", f"with {begun}" if begun else "from scratch"))
    return Table("What the run was made with.", ("", "value"), tuple(rows))


def _interval(found: bootstrap.Interval | None) -> str:
    if found is None:
        return "none"
    return f"{100 * found.low:.2f} to {100 * found.high:.2f}"


def _share(part: int, whole: int) -> str:
    return percent(part / whole, None) if whole else "none"


def _plain(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
