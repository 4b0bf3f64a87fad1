"""Compute every figure again, from predictions files alone.

Figures of focus are shown where a fold has its focus.csv beside them.

python launch.py eval --predictions=runs/phantom/fold_0/predictions.csv
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fof_jax import files
from fof_jax.data.progress import progress_to
from fof_jax.evaluation import localization, operating_points
from fof_jax.evaluation.metrics import AVERAGES, by_patient, summarize
from fof_jax.evaluation.predictions import join, read_predictions, write_predictions
from fof_jax.evaluation.tables import (
    align,
    describe_split,
    format_localization,
    format_table,
    percent,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--predictions, repeated for more, or --table; and how to read them."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", type=Path, metavar="FILE", help="a cohort's CSV")
    what.add_argument(
        "--predictions",
        action="append",
        type=Path,
        metavar="FILE",
        help="a predictions.csv; repeat the flag for the folds of one run",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="the model that grades --table"
    )
    parser.add_argument(
        "--specificity",
        action="append",
        type=float,
        default=[],
        metavar="SHARE",
        help="give each class's sensitivity at it; repeat the flag for more",
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "max"),
        default="mean",
        help="how a patient's regions come together",
    )
    parser.add_argument("--scheme", help="how the folds were split, for the tables")
    parser.add_argument("--paper_row", help="row of the paper's Table I to print")
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file for every figure; with --table the folder for all",
    )


def run(flags: argparse.Namespace) -> int:
    """The flags to `evaluate`, predictions of a table first."""
    predictions, names, out = flags.predictions, None, flags.out
    if flags.table is not None:
        names = _grade(flags.table, flags.checkpoint, out)
        predictions, out = [out / "predictions.csv"], out / "eval.json"
    elif flags.checkpoint is not None:
        raise ValueError("eval: --checkpoint goes with --table alone.")
    return evaluate(
        predictions=predictions,
        aggregate=flags.aggregate,
        scheme=flags.scheme,
        paper_row=flags.paper_row,
        out=out,
        specificities=flags.specificity,
        names=names,
    )


def _grade(table: Path, checkpoint: Path | None, out: Path | None) -> tuple[str, ...]:
    """Writes predictions.csv; the names of the classes."""
    if checkpoint is None or out is None:
        raise ValueError(
            "eval: --table wants --checkpoint=RUN, the model, and --out=FOLDER, which "
            "gets predictions.csv and eval.json."
        )
    written = out / "predictions.csv"
    if written.exists():
        raise ValueError(f"eval: {written} exists already. Pass another --out.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"eval: {out} is a file. Pass a folder as --out.")
    from fof_jax.inference import external, load

    model = load.load(checkpoint)
    cohort = external.read(table, model.classes)
    graded = external.predict(model, cohort, progress_to("graded", sys.stderr))
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(written, graded)
    for image, error in zip(graded.image, graded.error, strict=True):
        if error:
            print(f"warning: {image}: {error}", file=sys.stderr)
    return model.classes


def evaluate(
    *,
    predictions: list[Path],
    aggregate: Literal["mean", "max"] = "mean",
    scheme: str | None = None,
    paper_row: str | None = None,
    out: Path | None = None,
    specificities: Sequence[float] = (),
    names: Sequence[str] | None = None,
) -> int:
    """Print the tables of one run's predictions, and write them as JSON if asked.

    Args:
      predictions: files of the one form, together the folds of one run.
      aggregate: how a patient's images come together.
      scheme: how the folds were split, to be named in the tables; None: not given.
      paper_row: row of the paper's Table I to print beside, or None.
      out: JSON file for all figures, single folds too; written whole or not at all.
      specificities: wanted in the tables of operating points; none, no tables.
      names: of the classes; None: "class 0" and so on.

    Returns:
      0.

    Raises:
      ValueError: files that cannot be used; nothing has been written then.
    """
    if not predictions:
        raise ValueError(
            "eval got no predictions; expected one file or more. Pass "
            "--predictions=runs/…/fold_0/predictions.csv, once a fold."
        )
    if out is not None and out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file to write. Pass --out={out}/eval.json."
        )
    table = join([read_predictions(path) for path in predictions])
    results = summarize(table, aggregate=aggregate)
    results["scheme"] = scheme
    results["focus"] = localization.summarize(localization.read_next_to(predictions))
    classes = names or [f"class {k}" for k in range(results["classes"])]
    results["names"] = list(classes)
    results["operating_points"] = []
    patients = by_patient(table, aggregate=aggregate)
    blocks = []
    for unit in ("region", "patient"):
        if results["units"][unit] is None:
            continue
        for average in AVERAGES:
            blocks.append(
                format_table(
                    results,
                    unit=unit,
                    scheme=scheme,
                    caption=f"Per {unit}, {average}",
                    average=average,
                    paper_row=paper_row,
                )
            )
        blocks.append(_classes(results["units"][unit], unit, scheme, classes))
        if specificities:
            points = operating_points.from_predictions(
                table if unit == "region" else patients, specificities, unit=unit
            )
            blocks.append(operating_points.format_points(points, classes))
            results["operating_points"] += points
    if results["focus"] is not None:
        blocks.append(format_localization(results["focus"], scheme))
    if results["notes"]:
        blocks.append("\n".join(["Notes", *(f"- {n}" for n in results["notes"])]))
    if out is not None:
        files.write_text(out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    print("\n\n".join(blocks))
    return 0


def _classes(
    figures: dict[str, Any], unit: str, scheme: str | None, names: Sequence[str]
) -> str:
    """AUC of each class against the rest, and the confusion matrix."""
    confusion = figures["confusion"]
    head = [
        "truth",
        *(f"pred {name.removeprefix('class ')}" for name in names),
        "AUC (%)",
    ]
    rows = [
        [name, *map(str, counts), percent(auc["mean"], auc["std"])]
        for name, counts, auc in zip(
            names, confusion, figures["auc_per_class"], strict=True
        )
    ]
    caption = f"Per {unit}: confusion (sum over folds), AUC of a class against the rest"
    return "\n".join([caption, describe_split(scheme), *align([head, *rows])])
