"""Writes a comparison: text, CSV, LaTeX, JSON, and a self-contained page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fof_jax import files
from fof_jax.evaluation import comparison_tables
from fof_jax.evaluation.comparison import Comparison
from fof_jax.report import page
from fof_jax.report.comparison import sections

NAME = "comparison"


def write(
    folder: Path,
    comparison: Comparison,
    *,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    cells: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes comparison.txt, .csv, .tex, .json and .html, and cost.csv and .json.

    Text, CSV, LaTeX and JSON depend on the predictions alone; what was measured of
    time and memory is in the files of the cost and on the page.

    Args:
      folder: made if missing.
      comparison: what to write.
      costs: row -> measured cost, see `fof_jax.training.cost`; None for no such files.
      cells: row -> states of its cells, for the page.
    """
    files.write_text(folder / f"{NAME}.txt", comparison_tables.text(comparison) + "\n")
    files.write_text(folder / f"{NAME}.csv", comparison_tables.as_csv(comparison))
    files.write_text(folder / f"{NAME}.tex", comparison_tables.latex(comparison))
    files.write_text(folder / f"{NAME}.json", comparison_tables.as_json(comparison))
    if costs:
        files.write_text(folder / "cost.json", json.dumps(costs, indent=1) + "\n")
        files.write_text(folder / "cost.csv", _cost_csv(comparison, costs))
    parts = sections.sections(
        comparison, costs or {}, cells or {}, folder=folder / "figures"
    )
    finished = len(comparison.finished())
    page.write(
        folder / f"{NAME}.html",
        title="Comparison of methods",
        lead=f"{finished} rows with results; metrics per {comparison.unit}.",
        warnings=comparison_tables.remarks(comparison),
        parts=parts,
    )


def _cost_csv(comparison: Comparison, costs: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per measured row, in the units of the keys' names."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    keys = [*sections.COST, "batch_size", "needs_at_test", "device", "load"]
    writer.writerow(["row", "method", *keys])
    for name, cost in costs.items():
        values = {key: cost.get(key) for key in keys}
        values["needs_at_test"] = " ".join(cost["needs_at_test"])
        line = ("" if value is None else value for value in values.values())
        writer.writerow([name, comparison.label_of(name), *line])
    return stream.getvalue()
