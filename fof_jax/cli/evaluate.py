"""Compute every figure again, from predictions files alone.

Figures of focus are shown where a fold has its focus.csv beside them.

python launch.py eval --predictions=runs/phantom/fold_0/predictions.csv
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Literal

from fof_jax import focus
from fof_jax.metrics import AVERAGES, summarise
from fof_jax.predictions import join, read_predictions
from fof_jax.results_table import (
    align,
    format_focus,
    format_table,
    percent,
    split_named,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--predictions, repeated for more, and how to read them."""
    parser.add_argument(
        "--predictions",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="a predictions.csv; repeat the flag for the folds of one run",
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "max"),
        default="mean",
        help="how a patient's regions come together",
    )
    parser.add_argument("--scheme", help="how the folds were split, for the tables")
    parser.add_argument("--paper_row", help="row of the paper's Table I to print")
    parser.add_argument("--out", type=Path, help="JSON file for every figure")


def run(flags: argparse.Namespace) -> int:
    """The flags to `evaluate`."""
    return evaluate(
        predictions=flags.predictions,
        aggregate=flags.aggregate,
        scheme=flags.scheme,
        paper_row=flags.paper_row,
        out=flags.out,
    )


def evaluate(
    *,
    predictions: list[Path],
    aggregate: Literal["mean", "max"] = "mean",
    scheme: str | None = None,
    paper_row: str | None = None,
    out: Path | None = None,
) -> int:
    """Print the tables of one run's predictions, and write them as JSON if asked.

    Args:
      predictions: files of the one form, together the folds of one run.
      aggregate: how a patient's images come together.
      scheme: how the folds were split, to be named in the tables; None: not given.
      paper_row: row of the paper's Table I to print beside, or None.
      out: JSON file for all figures, single folds too; written whole or not at all.

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
    results = summarise(table, aggregate=aggregate)
    results["scheme"] = scheme
    results["focus"] = focus.summarise(focus.beside(predictions))
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
        blocks.append(_classes(results["units"][unit], unit, scheme))
    if results["focus"] is not None:
        blocks.append(format_focus(results["focus"], scheme))
    if results["notes"]:
        blocks.append("\n".join(["Notes", *(f"- {n}" for n in results["notes"])]))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f".{out.name}.tmp")
        unfinished.write_text(
            json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        os.replace(unfinished, out)
    print("\n\n".join(blocks))
    return 0


def _classes(figures: dict[str, Any], unit: str, scheme: str | None) -> str:
    """AUC of each class against the rest, and the confusion matrix."""
    confusion = figures["confusion"]
    head = ["truth", *(f"pred {k}" for k in range(len(confusion))), "AUC (%)"]
    rows = [
        [f"class {k}", *map(str, counts), percent(auc["mean"], auc["std"])]
        for k, (counts, auc) in enumerate(
            zip(confusion, figures["auc_per_class"], strict=True)
        )
    ]
    caption = f"Per {unit}: confusion (sum over folds), AUC of a class against the rest"
    return "\n".join([caption, split_named(scheme), *align([head, *rows])])
