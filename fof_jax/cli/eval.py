"""Recompute all metrics from predictions.csv files, or evaluate on another cohort.

Localization metrics are included if a fold has a focus.csv in the same folder.

python launch.py eval --predictions=runs/phantom/fold_0/predictions.csv
python launch.py eval --table=T.csv --checkpoint=runs/phantom --out=external
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fof_jax import files
from fof_jax.cli import eval_abstention, predict
from fof_jax.data.progress import progress_to
from fof_jax.evaluation import abstention, localization, operating_points
from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.metrics import (
    AVERAGES,
    Unit,
    summarize,
    units_with_results,
)
from fof_jax.evaluation.predictions import (
    Predictions,
    join,
    read_predictions,
    write_predictions,
)
from fof_jax.evaluation.tables import (
    align,
    describe_split,
    format_localization,
    format_table,
    percent,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --predictions or --table, and the options of the evaluation."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--table", type=Path, metavar="FILE", help="a cohort's CSV")
    source.add_argument(
        "--predictions",
        action="append",
        type=Path,
        metavar="FILE",
        help="a predictions.csv; repeat the flag for the folds of one run",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="model to evaluate on --table"
    )
    parser.add_argument(
        "--specificity",
        action="append",
        type=float,
        default=[],
        metavar="FRACTION",
        help="report each class's sensitivity at it; repeat the flag for more",
    )
    parser.add_argument(
        "--abstain_error",
        type=float,
        metavar="FRACTION",
        help="choose when to abstain, so that this fraction of the answers is wrong; "
        "on the validation rows, if the run has them",
    )
    parser.add_argument(
        "--abstain_by",
        choices=abstention.WAYS,
        default="margin",
        help="margin of the two largest probabilities (default), or a probability for "
        "each class",
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "max"),
        default="mean",
        help="how probabilities of a patient's regions are combined",
    )
    parser.add_argument("--scheme", help="split unit of the folds, for the tables")
    parser.add_argument("--paper_row", help="row of the paper's Table I to print")
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file for all metrics; with --table, the output folder",
    )


def run(flags: argparse.Namespace) -> int:
    """Calls `evaluate`; with --table, predicts first."""
    predictions, classes, out = flags.predictions, None, flags.out
    notes: list[str] = []
    if flags.table is not None:
        classes, notes = _predict_table(flags.table, flags.checkpoint, out)
        predictions, out = [out / "predictions.csv"], out / "eval.json"
    elif flags.checkpoint is not None:
        raise ValueError("eval: --checkpoint requires --table.")
    return evaluate(
        predictions=predictions,
        aggregate=flags.aggregate,
        scheme=flags.scheme,
        paper_row=flags.paper_row,
        out=out,
        specificities=flags.specificity,
        abstain_error=flags.abstain_error,
        abstain_by=flags.abstain_by,
        classes=classes,
        notes=notes,
    )


def _predict_table(
    table: Path, checkpoint: Path | None, out: Path | None
) -> tuple[tuple[str, ...], list[str]]:
    """Writes predictions.csv of a cohort; returns the classes' names and notes."""
    if checkpoint is None or out is None:
        raise ValueError(
            "eval: --table requires --checkpoint=RUN, the model, and --out=FOLDER, for "
            "predictions.csv and eval.json."
        )
    predict.check_out(out)
    path = out / "predictions.csv"
    if path.exists():
        raise ValueError(f"eval: {path} exists already. Pass another --out.")
    from fof_jax.data.cohort import read_cohort
    from fof_jax.inference import batch, inputs, load, names, provenance
    from fof_jax.inference.table_form import TableForm

    model = load.load(checkpoint)
    form = TableForm.of(model.config)
    omics = model.omic_names
    inputs.require_omics_columns(form.load(table), omics, model.config.method)
    # Images are opened one by one later: an unreadable one becomes a row with an error.
    cohort = read_cohort(
        table,
        classes=model.classes,
        biomarkers=(),
        omics=omics,
        decode=False,
        **form.cohort_arguments(table),
    )
    rows = batch.predict_cohort(model, cohort, progress_to("graded", sys.stderr))
    out.mkdir(parents=True, exist_ok=True)
    about = provenance.describe(model, command="eval", checkpoint=checkpoint)
    provenance.write(out, about, table=names.printable(str(table)), images=len(rows))
    write_predictions(path, rows)
    predict.print_warnings([*rows.notes, *predict.failures(rows)])
    return model.classes, [n for n in rows.notes if batch.TRAINED in n]


def evaluate(
    *,
    predictions: list[Path],
    aggregate: Literal["mean", "max"] = "mean",
    scheme: str | None = None,
    paper_row: str | None = None,
    out: Path | None = None,
    specificities: Sequence[float] = (),
    abstain_error: float | None = None,
    abstain_by: str = "margin",
    classes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> int:
    """Prints the metrics of one run's predictions, and optionally writes them as JSON.

    Args:
      predictions: predictions.csv files, together the folds of one run.
      aggregate: how probabilities of a patient's images are combined.
      scheme: split unit of the folds, named in the tables; None: not given.
      paper_row: row of the paper's Table I to print for comparison, or None.
      out: JSON file for all metrics, also of single folds; written atomically.
      specificities: of the tables of operating points; no tables if empty.
      abstain_error, abstain_by: see `abstention.choose`; None chooses no rule.
      classes: names of the classes; None takes them from the tables, or from the run
        that these lie in; "class 0" and so on without either.
      notes: caveats to print before those of the metrics.

    Returns:
      0.

    Raises:
      ValueError: files that cannot be used; nothing has been written then.
    """
    _check_files(predictions, out)
    table = join([read_predictions(path) for path in predictions])
    table = _with_names(table, predictions, classes)
    results = summarize(table, aggregate=aggregate)
    results["notes"] = [*notes, *results["notes"]]
    results["scheme"] = scheme
    results["focus"] = localization.summarize(localization.read_next_to(predictions))
    results["names"] = names = list(
        table.classes or [f"class {k}" for k in range(results["classes"])]
    )
    patients = by_patient(table, aggregate=aggregate)
    tables = {
        unit: table if unit == "region" else patients
        for unit, _ in units_with_results(results)
    }
    blocks, results["operating_points"] = [], []
    for unit, rows in tables.items():
        blocks += _format_unit(results, unit, scheme, paper_row)
        if specificities:
            points = operating_points.from_predictions(rows, specificities, unit=unit)
            blocks.append(operating_points.format_points(points, names))
            results["operating_points"] += points
    results["abstention"] = []
    if abstain_error is not None:
        texts, chosen = eval_abstention.choose(
            table,
            predictions,
            units=list(tables),
            error=abstain_error,
            way=abstain_by,
            aggregate=aggregate,
        )
        blocks += texts
        results |= chosen
    if results["focus"] is not None:
        blocks.append(format_localization(results["focus"], scheme))
    if results["notes"]:
        blocks.append("\n".join(["Notes", *(f"- {n}" for n in results["notes"])]))
    if out is not None:
        files.write_text(out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    print("\n\n".join(blocks))
    return 0


def _check_files(predictions: Sequence[Path], out: Path | None) -> None:
    if not predictions:
        raise ValueError(
            "eval got no predictions; expected one file or more. Pass "
            "--predictions=runs/…/fold_0/predictions.csv, once per fold."
        )
    if out is not None and out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file to write. Pass --out={out}/eval.json."
        )


def _format_unit(
    results: dict[str, Any], unit: Unit, scheme: str | None, paper_row: str | None
) -> list[str]:
    """Tables of one unit: each averaging, then the classes."""
    blocks = [
        format_table(
            results,
            unit=unit,
            scheme=scheme,
            caption=f"Per {unit}, {average}",
            average=average,
            paper_row=paper_row,
        )
        for average in AVERAGES
    ]
    metrics = results["units"][unit]
    return [*blocks, _format_classes(metrics, unit, scheme, results["names"])]


def _with_names(
    table: Predictions, paths: Sequence[Path], classes: Sequence[str] | None
) -> Predictions:
    """Names the classes of a table that only numbers them, as its run does."""
    if table.classes is not None:
        return table
    named = {tuple(classes)} if classes else {_classes_of_run(path) for path in paths}
    names = named.pop() if len(named) == 1 else None
    if names is None or len(names) != table.prob.shape[1]:
        return table
    return dataclasses.replace(table, classes=names)


def _classes_of_run(path: Path) -> tuple[str, ...] | None:
    """Classes of the fold or the run in whose folder a predictions file lies."""
    for file in (path.parent / "model.json", path.parent.parent / "config.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            config = json.loads(file.read_text(encoding="utf-8"))["config"]
            return tuple(map(str, config["data"]["classes"]))
    return None


def _format_classes(
    metrics: dict[str, Any], unit: str, scheme: str | None, names: Sequence[str]
) -> str:
    """Confusion matrix and AUC of each class against the rest."""
    predicted = [f"pred {name.removeprefix('class ')}" for name in names]
    rows = [["truth", *predicted, "AUC (%)"]]
    rows += [
        [name, *map(str, counts), percent(auc["mean"], auc["std"])]
        for name, counts, auc in zip(
            names, metrics["confusion"], metrics["auc_per_class"], strict=True
        )
    ]
    caption = f"Per {unit}: confusion (sum over folds), AUC of a class against the rest"
    return "\n".join([caption, describe_split(scheme), *align(rows)])
