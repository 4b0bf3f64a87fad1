"""Cells of a comparison: selection, states, costs, and the results of finished ones."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from fof_jax import files
from fof_jax.cli import compare_rows
from fof_jax.evaluation import comparison, metrics, published
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.training import cells, preemption
from fof_jax.training import workdir as run_folder
from fof_jax.training.cells import Cell, State


@dataclasses.dataclass(frozen=True)
class Job:
    """The cells of a plan in a folder.

    Attributes:
      plan: rows and data.
      folder: of the comparison.
      seeds: of the runs.
      log: prints a line.
    """

    plan: compare_rows.Plan
    folder: cells.Folder
    seeds: tuple[int, ...]
    log: Callable[[str], None]

    def select(
        self, rows: Sequence[str] | None, folds: Sequence[int] | None
    ) -> list[Cell]:
        """Cells to train: seed by seed, fold by fold, all rows of a fold in turn.

        Args:
          rows: names, None for all. Rows that cannot be trained have no cells.
          folds: numbers, None for all.

        Raises:
          ValueError: a row or fold that does not exist.
        """
        names = [row.name for row in self.plan.rows]
        if unknown := [name for name in rows or () if name not in names]:
            raise ValueError(
                f"compare: --rows names {', '.join(unknown)}; expected some of "
                f"{', '.join(names)}."
            )
        count = len(self.plan.folds.folds)
        if bad := [fold for fold in folds or () if not 0 <= fold < count]:
            raise ValueError(
                f"compare: --folds names {', '.join(map(str, bad))}; the data have "
                f"folds 0-{count - 1}."
            )
        usable = [
            row.name
            for row in self.plan.rows
            if not row.reason and (rows is None or row.name in rows)
        ]
        ordered = [name for name in dict.fromkeys(rows or names) if name in usable]
        refusals = self._refusals()
        return [
            Cell(seed, fold, name)
            for seed in self.seeds
            for fold in (range(count) if folds is None else dict.fromkeys(folds))
            for name in ordered
            if not refusals[name, seed]
        ]

    def words(self, cell: Cell) -> list[str]:
        """Command line of a cell."""
        config = compare_rows.cell_words(
            self._row(cell.row), self.plan, self.folder, cell.seed, cell.fold
        )
        workdir = self.folder.workdir(cell.row, cell.seed)
        return ["train", *config, f"--workdir={workdir}"]

    def print_plan(self, selected: Sequence[Cell]) -> None:
        """Prints which rows are left out, the state of the cells, and the time left."""
        for row in self.plan.rows:
            if row.reason:
                self.log(f"{row.name}: left out. {row.reason}")
        for (name, seed), reason in self._refusals().items():
            if reason:
                self.log(f"{name}, seed {seed}: not trained. {reason}")
        for name in dict.fromkeys(cell.row for cell in selected):
            row_cells = [cell for cell in selected if cell.row == name]
            states = [cells.state(self.folder, cell) for cell in row_cells]
            counts = {s: states.count(s) for s in State if s in states}
            self.log(
                f"{name}: "
                + ", ".join(
                    f"{n} of {len(row_cells)} {s.value}" for s, n in counts.items()
                )
            )
        open_cells = [c for c in selected if not self.folder.predictions(c).exists()]
        left = cells.seconds_left(self.folder, open_cells)
        known = "unknown, no cell is measured" if left is None else _duration(left)
        self.log(
            f"{len(open_cells)} of {len(selected)} cells to train; time left in one "
            f"process: {known}"
        )

    def compare(self, *, unit: metrics.Unit, replicates: int) -> comparison.Comparison:
        """Compares the finished cells of all rows, whether selected now or not."""
        refusals = self._refusals()
        entries = [self._entry(row, refusals) for row in self.plan.rows]
        lines = compare_rows.conditions(self.plan, self.seeds)
        return comparison.compare(
            entries,
            references=published.REFERENCES,
            unit=unit,
            replicates=replicates,
            conditions=[*lines, *self._origins()],
        )

    def states(self) -> dict[str, list[str]]:
        """Row -> state of each of its cells, with the time of the measured ones."""
        result = {}
        for row in self.plan.rows:
            states_of_row = []
            for cell in self._cells_of(row):
                text = cells.state(self.folder, cell).value
                ended = cells.outcome(self.folder, cell)
                if ended.get("code") == 0:
                    text += f", {ended['seconds']:.0f} s"
                    text += ", resumed" if ended["resumed"] else ""
                states_of_row.append(f"seed {cell.seed}, fold {cell.fold}: {text}")
            result[row.name] = states_of_row
        return result

    def costs(self) -> dict[str, dict[str, Any]]:
        """Row -> its measured cost, of the rows that have one."""
        by_row = {}
        for row in self.plan.rows:
            path = self.folder.cost(row.name)
            if path.exists():
                by_row[row.name] = json.loads(path.read_text(encoding="utf-8"))
        return by_row

    def measure_costs(self, selected: Sequence[Cell]) -> None:
        """Measures the cost of each row that has a finished cell and no cost yet.

        Raises:
          preemption.Stopped: by a signal.
        """
        rows = [c.row for c in selected if self.folder.predictions(c).exists()]
        with preemption.signal_handlers() as stop:
            for name in dict.fromkeys(rows):
                self.measure_cost(name, stop)
                if stop.code:
                    raise preemption.Stopped(stop.code)

    def measure_cost(self, name: str, stop: preemption.StopRequest) -> None:
        """Measures the cost of a row in its own process, unless that was done."""
        path = self.folder.cost(name)
        lock = self.folder.root / ".locks" / f"{name}-cost"
        try:
            with files.exclusive_lock(lock, f"cost of {name}", lambda _: None):
                if path.exists() or stop.code:
                    return
                words = compare_rows.cell_words(
                    self._row(name), self.plan, self.folder, self.seeds[0]
                )
                output = self.folder.root / "logs" / f"{name}-cost.log"
                code = cells.run_child(["cost", *words, f"--out={path}"], output, stop)
        except ValueError:
            return  # another process measures it
        if code and not stop.code:
            self.log(f"{name}: its cost was not measured, see {output}")

    def _row(self, name: str) -> compare_rows.Row:
        return next(row for row in self.plan.rows if row.name == name)

    def _cells_of(self, row: compare_rows.Row) -> list[Cell]:
        count = len(self.plan.folds.folds)
        return [Cell(s, f, row.name) for s in self.seeds for f in range(count)]

    def _refusals(self) -> dict[tuple[str, int], str]:
        """(row, seed) -> why its existing cells are not of this comparison, or ""."""
        return {
            (row.name, seed): compare_rows.refused(row, self.plan, self.folder, seed)
            for row in self.plan.rows
            for seed in self.seeds
            if not row.reason
        }

    def _entry(
        self, row: compare_rows.Row, refusals: dict[tuple[str, int], str]
    ) -> comparison.Entry:
        """A row with its finished cells, and why the others are missing."""
        if row.reason:
            return comparison.Entry(row.name, row.table, {}, 0, f"no run: {row.reason}")
        remarks, finished = [], {}
        for seed in self.seeds:
            if refusal := refusals[row.name, seed]:
                remarks.append(" ".join(refusal.split()))
        row_cells = [c for c in self._cells_of(row) if not refusals[row.name, c.seed]]
        for cell in row_cells:
            state = cells.state(self.folder, cell)
            if state is State.FINISHED:
                table = read_predictions(self.folder.predictions(cell))
                finished[cell.seed, cell.fold] = table
            else:
                reason = cells.outcome(self.folder, cell).get("reason") or state.value
                remarks.append(f"seed {cell.seed}, fold {cell.fold}: {reason}")
        if not finished and len(set(r.partition(": ")[2] for r in remarks)) == 1:
            remarks = [remarks[0].partition(": ")[2]]
        total = len(self._cells_of(row))
        return comparison.Entry(
            row.name, row.table, finished, total, "; ".join(remarks)
        )

    def _origins(self) -> list[str]:
        """By which code and versions the finished cells were trained, and how many.

        Of cells whose predictions were put there alone this is not known.
        """
        count: collections.Counter[str] = collections.Counter()
        for cell in itertools.chain(*map(self._cells_of, self.plan.rows)):
            path = self.folder.predictions(cell)
            if path.exists():
                count[self._origin(cell)] += 1
        return [
            f"{number} of {count.total()} cells trained by {origin}"
            for origin, number in sorted(count.items())
        ]

    def _origin(self, cell: Cell) -> str:
        workdir = self.folder.workdir(cell.row, cell.seed)
        fold = self.folder.predictions(cell).parent
        if not (fold / run_folder.MODEL_FILE).exists():
            return "code that is not recorded here"
        origin = run_folder.read_config(workdir)["made_with"]
        commit = (origin["commit"] or "unknown commit")[:12]
        changed = " with changes" if origin["uncommitted_changes"] else ""
        devices = f"{origin['devices']} {origin['device']} device(s)"
        return f"{commit}{changed}, JAX {origin['packages']['jax']}, {devices}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"{hours}{minutes % 60} min"
