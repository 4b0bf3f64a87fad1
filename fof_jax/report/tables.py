"""Tables of the page, as rows of text."""

import dataclasses
from typing import Any

import numpy as np

from fof_jax.evaluation import bootstrap, metrics
from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.metrics import Average
from fof_jax.evaluation.predictions import Predictions
from fof_jax.evaluation.published import FIGURES, cited
from fof_jax.evaluation.tables import COLUMNS, describe_split, percent
from fof_jax.report.run import Run
from fof_jax.training.build import flatten_fields

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
    """A table of text.

    Attributes:
      caption: content, units and conditions.
      header: names of the columns.
      rows: cells; the first one is the row's name.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def results(run: Run, versus: Run | None, *, replicates: int) -> list[Table]:
    """Mean ± std with bootstrap intervals, one table per unit and averaging."""
    if run.results is None:
        return []
    return [
        _results(run, versus, unit, average, replicates)
        for unit, _ in metrics.units_with_results(run.results)
        for average in metrics.AVERAGES
    ]


def _results(
    run: Run, versus: Run | None, unit: str, average: Average, replicates: int
) -> Table:
    header = ["%"]
    columns: list[list[str]] = []
    # The paper reports metrics per region, micro-averaged.
    comparable = (unit, average) == ("region", "micro")
    for one in (run, versus):
        if one is None or one.predictions is None or one.results is None:
            continue
        if one.results["units"][unit] is None:
            continue
        name = "this run" if one is run else f"versus: {one.name}"
        header += [f"{name}, mean ± std", "95% interval"]
        summary = one.results["units"][unit][average]
        columns.append([percent(summary["mean"][m], summary["std"][m]) for m in NAMES])
        intervals = bootstrap.confidence_intervals(
            of_unit(one.predictions, unit), average=average, replicates=replicates
        )
        columns.append([_interval(intervals.get(metric)) for metric in NAMES])
        if comparable and one.paper_row in FIGURES:
            header.append(cited(one.paper_row))
            paper = dict(zip(COLUMNS, FIGURES[one.paper_row], strict=True))
            columns.append(
                [
                    f"{paper[m][0]:.2f} ± {paper[m][1]:.2f}" if m in paper else ""
                    for m in NAMES
                ]
            )
    rows = [
        (name, *(column[i] for column in columns))
        for i, name in enumerate(NAMES.values())
    ]
    caption = f"Per {unit}, {average}-averaged; {conditions(run, unit)}."
    if versus is not None:
        caption += f" Versus: {conditions(versus, unit)}."
    return Table(caption, tuple(header), tuple(rows))


def conditions(run: Run, unit: str) -> str:
    """Conditions of a run's metrics: split, folds, counts, aggregation."""
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
    """Aggregates predictions of regions to rows per region or per patient."""
    return table if unit == "region" else by_patient(table)


def per_fold(run: Run) -> Table:
    """One row per fold: state, number of regions, micro-averaged metrics per region."""
    per_fold: dict[str, Any] = {}
    if run.results is not None and run.results["units"]["region"] is not None:
        per_fold = run.results["units"]["region"]["micro"]["folds"]
    rows = []
    for fold in run.folds:
        one = per_fold.get(str(fold.number))
        cells = ["", *[""] * len(NAMES)]
        if one is not None:
            cells = [str(one["n"]), *(percent(one[m], None) for m in NAMES)]
        rows.append((f"fold {fold.number}", fold.state, *cells))
    return Table(
        f"Single folds, per region, micro-averaged, %; {describe_split(run.scheme)}.",
        ("", "state", "regions", *NAMES.values()),
        tuple(rows),
    )


def per_class(run: Run, unit: str) -> Table | None:
    """AUC, recall and precision, one class against the rest."""
    if run.results is None or run.results["units"][unit] is None:
        return None
    summary = run.results["units"][unit]
    confusion = np.array(summary["confusion"])
    rows = []
    for k, name in enumerate(run.classes):
        auc = summary["auc_per_class"][k]
        actual, predicted = int(confusion[k].sum()), int(confusion[:, k].sum())
        correct = int(confusion[k, k])
        rows.append(
            (
                name,
                percent(auc["mean"], auc["std"]),
                _fraction(correct, actual),
                _fraction(correct, predicted),
                str(actual),
            )
        )
    return Table(
        f"One class against the rest, per {unit}, in %: AUC as mean ± std over folds, "
        "recall and precision over all folds.",
        ("class", "AUC", "recall", "precision", f"{unit}s"),
        tuple(rows),
    )


def counts(run: Run) -> Table | None:
    """Regions and patients in training and testing of every fold, also per class."""
    if run.splits is None:
        return None
    rows = []
    names = ["train", "validation", "test"]
    if not all("validation" in fold for fold in run.splits["folds"]):
        names.remove("validation")
    for fold in run.splits["folds"]:
        parts = [fold[name] for name in names]
        sides = [f"{side['regions']} / {side['patients']}" for side in parts]
        classes = [
            " / ".join(str(side["classes"].get(label, 0)) for side in parts)
            for label in run.classes
        ]
        rows.append((f"fold {fold['fold']}", *sides, *classes))
    words = {"train": "training", "test": "testing"}
    sets = [words.get(name, name) for name in names]
    return Table(
        f"Regions / patients in {', '.join(sets[:-1])} and {sets[-1]}, and regions of "
        "each class in "
        f"{' / '.join(sets)}; {describe_split(run.scheme)}; seed {run.splits['seed']}.",
        ("", *sets, *run.classes),
        tuple(rows),
    )


def configuration(run: Run) -> Table:
    """All config fields by their flat names."""
    fields = flatten_fields(run.config)
    rows = tuple((name, _text(value)) for name, value in fields.items())
    return Table("Configuration of the run.", ("field", "value"), rows)


def origin(run: Run) -> Table:
    """Versions, commit, devices and initial weights of the run."""
    made_with = dict(run.made_with)
    packages = made_with.pop("packages", {})
    rows = [(name, _text(version)) for name, version in packages.items()]
    rows += [
        (name.replace("_", " "), _text(value)) for name, value in made_with.items()
    ]
    rows.append(("hash of the table", run.table_hash))
    initial = run.config["init"]["checkpoint"]
    rows.append(("initial weights", initial or "from scratch"))
    return Table("Provenance of the run.", ("", "value"), tuple(rows))


def _interval(interval: bootstrap.Interval | None) -> str:
    if interval is None:
        return "none"
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def _fraction(part: int, whole: int) -> str:
    return percent(part / whole, None) if whole else "none"


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
