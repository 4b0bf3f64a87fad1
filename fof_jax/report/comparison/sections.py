"""Sections of the page of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fof_jax.evaluation import comparison_tables
from fof_jax.evaluation.comparison import Comparison
from fof_jax.report.comparison import plots
from fof_jax.report.page import Section
from fof_jax.report.tables import Table

# Key of a measured cost -> column, divisor and digits.
COST = {
    "test_parameters": ("parameters at test", 1, 0),
    "parameters": ("parameters in training", 1, 0),
    "test_gflop_per_image": ("GFLOP an image at test", 1, 4),
    "step_gflop": ("GFLOP a step", 1, 3),
    "step_s": ("s a step", 1, 3),
    "test_images_per_s": ("images/s at test", 1, 1),
    "step_bytes": ("memory of a step (MiB)", 2**20, 0),
    "peak_bytes": ("peak of the process (MiB)", 2**20, 0),
}
COST_TEXT = (
    "Measured once for each row, on one device, with a batch of the training and of "
    "the test fold. FLOPs are those of matrix products and convolutions in the "
    "compiled programs; a step includes all views, recomputation, and for a student "
    "the forward pass of its teacher. Times are "
    "medians and depend on the load of the machine. Memory of a step: arguments, "
    "results and temporaries. Peak of the process: resident on a CPU, of the "
    "device's allocator on an accelerator."
)


def sections(
    comparison: Comparison,
    costs: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Sequence[str]],
    *,
    folder: Path,
) -> list[Section]:
    """All sections in order.

    Args:
      comparison: rows with statistics.
      costs: row -> measured cost.
      cells: row -> states of its cells.
      folder: for the plots as files.
    """
    parts = [_results(comparison)]
    if comparison.finished():
        parts.append(_plots(comparison, folder))
    if comparison.references:
        parts.append(_differences(comparison))
    if (table := cost_table(comparison, costs)) is not None:
        text = (COST_TEXT, _load(costs))
        parts.append(Section("cost", "Cost", text, tables=(table,)))
    parts.append(
        Section(
            "conditions", "Conditions", tuple(comparison_tables.conditions(comparison))
        )
    )
    if cells:
        parts.append(_cells(comparison, cells))
    return parts


def cost_table(
    comparison: Comparison, costs: Mapping[str, Mapping[str, Any]]
) -> Table | None:
    """One row per measured row, and what it needs at test; None without any."""
    rows = []
    for row in {r.name: r for r in comparison.rows}.values():
        cost = costs.get(row.name)
        if cost:
            figures = [_figure(cost.get(key), *COST[key][1:]) for key in COST]
            rows.append((row.label, *figures, " and ".join(cost["needs_at_test"])))
    if not rows:
        return None
    names = (column for column, _, _ in COST.values())
    return Table("Cost of each row.", ("", *names, "needs at test"), tuple(rows))


def _figure(value: float | int | None, divisor: int, digits: int) -> str:
    return "" if value is None else f"{value / divisor:,.{digits}f}"


def _load(costs: Mapping[str, Mapping[str, Any]]) -> str:
    devices = sorted({str(cost["device"]) for cost in costs.values()})
    loads = [float(cost["load"]) for cost in costs.values()]
    return (
        f"Device: {', '.join(devices)}; load of the machine {min(loads):.1f} to "
        f"{max(loads):.1f}."
    )


def _results(comparison: Comparison) -> Section:
    tables = []
    for table, title in comparison_tables.TITLES.items():
        rows = [row for row in comparison.rows if row.table == table]
        if rows:
            header, *lines = comparison_tables.result_lines(rows)
            tables.append(
                Table(f"{title}, in percent.", tuple(header), tuple(map(tuple, lines)))
            )
    return Section("results", "Results", tables=tuple(tables))


def _plots(comparison: Comparison, folder: Path) -> Section:
    text = (
        "Rows in the order of their mean, with 95% intervals by patient. Intervals of "
        "two rows may overlap although their paired difference is significant.",
    )
    return Section(
        "points", "Points and intervals", text, plots=plots.points(comparison, folder)
    )


def _differences(comparison: Comparison) -> Section:
    tables = []
    for reference in comparison.references:
        header, *lines = comparison_tables.difference_lines(comparison, reference)
        caption = comparison_tables.difference_caption(comparison, reference)
        if lines:
            rows = tuple(map(tuple, lines))
            tables.append(Table(f"{caption}.", tuple(header), rows))
    return Section("differences", "Paired differences", tables=tuple(tables))


def _cells(comparison: Comparison, cells: Mapping[str, Sequence[str]]) -> Section:
    rows = tuple(
        (comparison.label_of(name), "; ".join(states))
        for name, states in cells.items()
        if states
    )
    table = Table("State and time of every cell.", ("", "cells"), rows)
    return Section("cells", "Cells", tables=(table,), collapsed=True)
