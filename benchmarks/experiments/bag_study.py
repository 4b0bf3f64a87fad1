"""Whether focusing helps on bags of patch features, cell by cell.

    python benchmarks/experiments/bag_study.py --table=bags/3/table.csv --share=3
    python benchmarks/experiments/bag_study.py --table=… --share=3 --rows=FoF --seeds=42
    python benchmarks/experiments/bag_study.py --show     # results so far, as Markdown

A cell is one fold of one row with one seed, on bags of which a share of the patches
decides the grade (`--share`, in percent, names the set). Seeds are the outermost loop,
so that the study can be stopped anywhere; a finished cell is written to
benchmarks/results/bag_study/SHARE and not run again. The table is one of `data bags`,
with the columns fold and the biomarkers.

A cell trains with the package's method, optimizer, schedule and compiled step. Its
loop is its own: all batches are padded to one length, so that one program serves all
cells of a row in a process. In training each bag gives `TOKENS` patches, sampled anew
in each epoch; at test all of them. The seed changes initialization, order and samples.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.conditions import conditions
from benchmarks.experiments import bag_study_table
from benchmarks.experiments.bag_study_data import CLASSES, Bags, read
from fof_jax import files
from fof_jax.cli import allocator, compiled
from fof_jax.configs import slides
from fof_jax.data import column_statistics
from fof_jax.data.bags import padding
from fof_jax.evaluation import bag_scores
from fof_jax.methods import registry
from fof_jax.methods.base import standardize, standardize_bag
from fof_jax.training import optimizer, parallel
from fof_jax.training.state import Schedule, initial_state
from fof_jax.types import Batch, DatasetInfo

SEEDS = tuple(range(42, 52))
TOKENS = 128
TESTED = 20  # bags in one call at test
RESULTS = bag_study_table.RESULTS
# Set before any cell was run, for cells of less than a minute; not tuned. Features are
# standardized by the training fold (docs/results.md).
COMMON: dict[str, Any] = {
    "encoder": "nano/features",
    "epochs": 8,
    "batch_size": 16,
    "data.max_tokens": TOKENS,
    "optimizer.learning_rate": 2e-3,
    "remat": "none",
    # Of seed 42 naive and 1: the same figures but for rounding, a quarter slower.
    "attention": "chunked",
    "unroll": 2,
}
# Row -> argument of configs/slides.py, and fields that differ.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean pooling": ("mean_pooling", {}),
    "ABMIL": ("abmil", {}),
    "baseline": ("baseline", {}),
    "w-o FRL": ("wo_frl", {}),
    "w-o MCA": ("wo_mca", {}),
    "FoF": ("", {}),
    # The remedies of the study on images, docs/results.md.
    "FoF, lambda_pos 0.25": ("", {"lambda_pos": 0.25}),
    "FoF, views after 4 epochs": ("", {"views.warmup_epochs": 4.0}),
}


class Runner:
    """One row: its config, method and programs, which all of its cells share."""

    def __init__(self, argument: str, fields: dict[str, Any], info: DatasetInfo):
        """Compiles nothing yet.

        Args:
          argument: of configs/slides.py.
          fields: what differs from it; at most `data.max_tokens` patches of a bag are
            trained on.
          info: of the bags.
        """
        self.config: ConfigDict = slides.get_config(argument)
        self.config.update_from_flattened_dict(fields)
        self.method: Any = registry.create(self.config, info)
        self.optimizer = optimizer.from_config(self.config)
        self.step = parallel.train_step(
            self.method,
            self.optimizer,
            lambda batch: batch,
            jax.random.key(0),  # no row draws in its loss
            jax.local_devices()[:1],
        )
        self.predict = jax.jit(
            lambda v, batch: jax.nn.softmax(
                self.method.apply(v, standardize(batch, v.frozen)).logits
            )
        )
        self.map = jax.jit(
            lambda v, bag, target: self.method.bag_map(
                v, standardize_bag(bag, v.frozen), target
            )
        )

    def train(self, bags: Bags, rows: np.ndarray, seed: int, fold: int) -> Any:
        """Variables after all epochs."""
        size, epochs = self.config.batch_size, self.config.epochs
        steps = len(rows) // size
        key = jax.random.fold_in(jax.random.key(seed), fold)
        length = self.config.data.max_tokens
        example = bags.batch(rows[:size], length, np.random.default_rng(0))
        features = column_statistics.measure(bags.values[i].features for i in rows)
        frozen = {"features": features._asdict()}
        state = initial_state(self.method, self.optimizer, key, example, frozen)
        for t, batch in enumerate(self._batches(bags, rows, seed, fold)):
            rate = optimizer.learning_rate(self.config, t, steps_per_epoch=steps)
            schedule = Schedule(
                learning_rate=np.float32(rate),
                progress=np.float32(t / (epochs * steps)),
                epoch=np.int32(t // steps),
            )
            state, metrics = self.step(
                state, parallel.to_devices(batch, 1), schedule, frozen
            )
        if not np.isfinite(float(metrics["total"])):
            raise FloatingPointError(f"loss {metrics['total']} after {t + 1} steps")
        return state.variables(frozen)

    def _batches(
        self, bags: Bags, rows: np.ndarray, seed: int, fold: int
    ) -> Iterator[Batch]:
        size = self.config.batch_size
        for epoch in range(self.config.epochs):
            rng = np.random.default_rng([seed, fold, epoch])
            order = rng.permutation(rows)
            for first in range(0, len(order) - size + 1, size):
                length = self.config.data.max_tokens
                yield bags.batch(order[first : first + size], length, rng)

    def test(self, bags: Bags, rows: np.ndarray, variables: Any) -> dict[str, Any]:
        """Probabilities of whole bags, and where their maps point."""
        longest = padding.bucket(max(len(bags.values[i].features) for i in rows))
        prob, figures = [], []
        for first in range(0, len(rows), TESTED):
            own = rows[first : first + TESTED]
            padded = np.concatenate([own, np.repeat(own[-1:], TESTED - len(own))])
            batch = bags.batch(padded, longest)
            prob.append(np.asarray(self.predict(variables, batch))[: len(own)])
            A = self.map(variables, batch.bag, jnp.asarray(batch.grade))
            for i, a in zip(own, np.asarray(A), strict=False):
                mask = bags.masks[i]  # empty in the lowest grade
                one = bag_scores.score(a[: len(mask)], mask) if mask.any() else {}
                figures.append(one)
        return {
            "rows": rows.tolist(),
            "patient": bags.patient[rows].tolist(),
            "y": bags.grade[rows].tolist(),
            "prob": np.concatenate(prob).astype(np.float64).round(5).tolist(),
        } | {
            name: [round(one[name], 4) if one else None for one in figures]
            for name in ("pointing", "precision", "area")
        }


def run_cell(runner: Runner, bags: Bags, seed: int, fold: int) -> dict[str, Any]:
    """Trains and tests one fold."""
    start, cpu = time.perf_counter(), time.process_time()
    variables = runner.train(bags, np.flatnonzero(bags.fold != fold), seed, fold)
    result = runner.test(bags, np.flatnonzero(bags.fold == fold), variables)
    seconds = {
        "wall": round(time.perf_counter() - start, 2),
        "cpu": round(time.process_time() - cpu, 2),
    }
    return result | {"seconds": seconds, "conditions": conditions()}


def main(argv: list[str] | None = None) -> None:
    """Runs the selected cells that have no results yet, or prints their table."""
    layout = argparse.RawDescriptionHelpFormatter
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    flags.add_argument("--table", type=Path, action="append", default=[])
    flags.add_argument("--share", action="append", default=[], help="of each --table")
    flags.add_argument("--rows", action="append", choices=tuple(ROWS))
    flags.add_argument("--seeds", type=int, action="append")
    flags.add_argument("--folds", type=int, action="append")
    flags.add_argument("--results", type=Path, default=RESULTS)
    compiled.add_flag(flags)
    flags.add_argument("--epochs", type=int, help="for a smaller run")
    flags.add_argument("--show", action="store_true", help="print the tables only")
    args = flags.parse_args(argv)
    rows = args.rows or list(ROWS)
    if args.show:
        print(bag_study_table.tables(args.results, rows))
        return
    if not args.table or len(args.table) != len(args.share):
        flags.error("--table and --share: expected one share for each table")
    changes = {} if args.epochs is None else {"epochs": args.epochs}
    allocator.keep_freed_memory(one_arena=True)
    compiled.use(args.compiled)
    sets = dict(zip(args.share, map(read, args.table), strict=True))
    names = {bags.names for bags in sets.values()}
    if len(names) > 1:
        flags.error(f"--table: biomarkers differ: {names}")
    info = DatasetInfo(CLASSES, names.pop(), ())

    @functools.cache
    def runner(row: str) -> Runner:
        argument, fields = ROWS[row]
        return Runner(argument, COMMON | fields | changes, info)

    for seed in args.seeds or SEEDS:
        for fold in args.folds or range(5):
            for share, bags in sets.items():
                for row in rows:
                    path = (
                        args.results / share / bag_study_table.name_of(row, seed, fold)
                    )
                    if path.exists():
                        continue
                    cell = {"share": share, "row": row, "seed": seed, "fold": fold}
                    result = run_cell(runner(row), bags, seed, fold)
                    files.write_text(path, json.dumps(cell | result) + "\n")
                    wall = result["seconds"]["wall"]
                    print(f"{share} {path.name}: {wall:.0f} s", flush=True)


if __name__ == "__main__":
    main()
