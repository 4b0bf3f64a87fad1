"""Comparison of methods on the same folds: the rows of Tables I and II with statistics.

Pure: predictions in, records out. `comparison_tables` formats them.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from fof_jax.evaluation import metrics, paired, published
from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.paired import METRICS, Difference, Key
from fof_jax.evaluation.predictions import Predictions, PredictionsError

ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row to compare.

    Attributes:
      name: row of configs/comparison.py, or folder of a run.
      table: "I" (image alone at test), "II", or "" if unknown.
      cells: (seed, fold) -> its test predictions, of the finished cells.
      expected: number of cells, finished or not.
      remark: why cells are missing; "" if none are.
      label: as printed; None for the paper's, or else the name.
    """

    name: str
    table: str
    cells: Mapping[Key, Predictions]
    expected: int
    remark: str = ""
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of a row, as fractions; None where it is undefined.

    Attributes:
      mean, std: over cells, ddof 1.
      low, high: 95% bootstrap interval of the mean, by patient.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the comparison.

    Attributes:
      name, table, expected, remark: as in `Entry`.
      label: as printed.
      scores: metric -> score; {} without a finished cell.
      per_cell: cell -> metric -> value or None.
      differences: reference -> metric -> difference to it.
      paper: mean and std of the metrics as published, in percent; None if not.
    """

    name: str
    label: str
    table: str
    expected: int
    remark: str
    scores: Mapping[str, Score]
    per_cell: Mapping[Key, Mapping[str, float | None]]
    differences: Mapping[str, Mapping[str, Difference]]
    paper: published.Figures | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows in the order of the paper, those of Table I first.

    Attributes:
      rows: each (table, name) once; a row of both tables is in both.
      references: names of the rows to which differences are computed.
      unit: "region" or "patient".
      counts: regions (or patients) and patients of the test folds together.
      replicates: of the bootstrap.
      conditions: lines on data, folds and budget.
    """

    rows: tuple[Row, ...]
    references: tuple[str, ...]
    unit: metrics.Unit
    counts: tuple[int, int]
    replicates: int
    conditions: tuple[str, ...]

    def label_of(self, name: str) -> str:
        """Label of a row by its name."""
        return next((r.label for r in self.rows if r.name == name), name)

    def finished(self) -> tuple[Row, ...]:
        """Rows with a finished cell, each once."""
        return tuple({r.name: r for r in self.rows if r.scores}.values())


def compare(
    entries: Sequence[Entry],
    *,
    references: Sequence[str],
    unit: metrics.Unit = "region",
    replicates: int,
    conditions: Sequence[str] = (),
    paper: bool = True,
) -> Comparison:
    """Metrics, intervals and paired differences of all rows.

    Differences of one metric to one reference are one family of Holm's correction.

    Args:
      entries: rows that were run or could have been.
      references: rows to which differences are computed, where they are among them.
      unit: what is scored: regions, or patients by the mean of their probabilities.
      replicates: of the bootstrap.
      conditions: lines on how the rows were made.
      paper: whether rows stand in the paper's order, with those that it has in
        addition; otherwise in the given one.

    Raises:
      PredictionsError: two rows tested other regions in one fold.
    """
    tables = {e.name: {k: _of(t, unit) for k, t in e.cells.items()} for e in entries}
    by_fold = _same_regions(tables)
    weights = paired.patient_weights(by_fold, replicates=replicates) if by_fold else {}
    drawn = {
        name: paired.replicates(cells, weights)
        for name, cells in tables.items()
        if cells
    }
    references = [name for name in references if name in drawn]
    differences: dict[str, dict[str, dict[str, Difference]]] = {}
    for reference in references:
        for metric in METRICS:
            of_metric = {
                name: paired.difference(resampled, drawn[reference], metric)
                for name, resampled in drawn.items()
                if name != reference
            }
            family = {name: one for name, one in of_metric.items() if one is not None}
            for name, one in paired.corrected(family).items():
                of_row = differences.setdefault(name, {}).setdefault(reference, {})
                of_row[metric] = one
    rows = [
        _row(entry, drawn.get(entry.name), differences.get(entry.name, {}))
        for entry in entries
    ]
    patients = {p for table in by_fold.values() for p in table.patient}
    lines = list(conditions)
    named = {p for e in entries for table in e.cells.values() for p in table.patient}
    if unit == "patient" and (left_out := named - patients):
        lines.append(
            f"{len(left_out)} of {len(named)} patients are left out: their regions "
            "have two grades, or none of them could be read"
        )
    return Comparison(
        rows=_in_the_papers_order(rows) if paper else tuple(rows),
        references=tuple(references),
        unit=unit,
        counts=(sum(map(len, by_fold.values())), len(patients)),
        replicates=replicates,
        conditions=tuple(lines),
    )


def _of(table: Predictions, unit: metrics.Unit) -> Predictions:
    return paired.scored(table if unit == "region" else by_patient(table))


def _same_regions(
    tables: Mapping[str, Mapping[Key, Predictions]],
) -> dict[int, Predictions]:
    """Fold -> its test rows, which have to be those of every row."""
    first: dict[int, tuple[str, Predictions]] = {}
    for name, cells in tables.items():
        for (_, fold), table in cells.items():
            other, expected = first.setdefault(fold, (name, table))
            same = (table.image, table.patient) == (expected.image, expected.patient)
            if not same or not np.array_equal(table.y, expected.y):
                raise PredictionsError(
                    f"fold {fold} of {name} and of {other} has other test rows "
                    f"({len(table)} and {len(expected)}); expected the same ones in "
                    "the same order. Compare runs of one table and one split."
                )
    return {fold: table for fold, (_, table) in sorted(first.items())}


def _row(
    entry: Entry,
    drawn: paired.Replicates | None,
    differences: Mapping[str, Mapping[str, Difference]],
) -> Row:
    per_cell = {
        key: {m: _number(drawn.values[m][key]) for m in METRICS} if drawn else {}
        for key in sorted(entry.cells)
    }
    scores = {m: _score(drawn, m) for m in METRICS} if drawn else {}
    label = entry.label or published.name_of(entry.name)
    return Row(
        name=entry.name,
        label=label,
        table=entry.table,
        expected=entry.expected,
        remark=entry.remark,
        scores=scores,
        per_cell=per_cell,
        differences=differences,
        paper=None,
    )


def _score(drawn: paired.Replicates, metric: str) -> Score:
    mean, low, high = drawn.mean(metric)
    values = [v for v in drawn.values[metric].values() if np.isfinite(v)]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(_number(mean), std, _number(low), _number(high))


def _in_the_papers_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The paper's rows, and after each of its tables the rows that it does not have."""
    by_name = {row.name: row for row in rows}
    ordered: list[Row] = []
    for table in ("I", "II"):
        for line in (line for line in published.ROWS if line.table == table):
            row = by_name.get(line.config) or _absent(line)
            ordered.append(
                dataclasses.replace(
                    row, table=table, label=line.label, paper=line.figures
                )
            )
        ordered += [
            row
            for row in rows
            if row.table == table and published.label_of(row.name) is None
        ]
    unknown = [r for r in rows if not r.table and published.label_of(r.name) is None]
    return (*ordered, *unknown)


def _absent(line: published.Row) -> Row:
    return Row(line.config, line.label, line.table, 0, "no config", {}, {}, {}, None)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
