"""Train every row of the paper's Tables I and II alike, and compare them.

python launch.py compare --config=configs/comparison.py --workdir=runs/tables
python launch.py compare --config=configs/comparison.py --workdir=runs/tables \\
    --rows=fof,vit,distill.pkt --folds=0,1 --seeds=42,43 --dry_run
python launch.py compare --runs runs/a runs/b runs/c --out=comparison

Every row, fold and seed is a cell, trained in its own process under a lock: the same
command on several machines over one file system shares the work, and after a kill it
goes on. A cell that fails is a row with its reason. Tables, with intervals and paired
differences, are written as comparison.txt, .csv, .tex, .json and .html.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from fof_jax.cli import config as config_flag

REFRESH = 600  # seconds between tables while cells are trained


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --workdir, or --runs, and the selection of cells."""
    config_flag.add_help(parser)
    parser.add_argument("--workdir", type=Path, help="folder of the comparison")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        metavar="WORKDIR",
        help="compare these finished runs instead, with the first one",
    )
    parser.add_argument(
        "--rows", type=_some_names, help="names, with commas; default: all"
    )
    parser.add_argument("--folds", type=_numbers, help="e.g. 0,1; default: all")
    parser.add_argument("--seeds", type=_numbers, help="e.g. 42,43; default: seed")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print what is done, what would run, and the time left; train nothing, "
        "but build the data set if it is not there yet",
    )
    parser.add_argument(
        "--unit",
        choices=("region", "patient"),
        default="region",
        help="what the metrics count; default region, as in the paper",
    )
    parser.add_argument(
        "--replicates", type=int, default=2000, help="of the bootstrap; default 2000"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for the tables; default: the workdir. With --runs: none, printed only",
    )


def run(flags: argparse.Namespace) -> int:
    """Trains cells and writes the tables, or compares finished runs."""
    if flags.replicates < 1:
        raise ValueError(
            f"compare: --replicates is {flags.replicates}; expected 1 or more."
        )
    if flags.runs is not None:
        others = ("config_words", "workdir", "dry_run", "rows", "folds", "seeds")
        if any(getattr(flags, name) not in (None, False, []) for name in others):
            raise ValueError(
                "compare: --runs compares finished runs; leave out --config, "
                "--workdir, --rows, --folds, --seeds and --dry_run, or leave out "
                "--runs."
            )
        return _compare_runs(flags)
    if flags.workdir is None:
        raise ValueError("compare: pass --workdir=FOLDER, e.g. --workdir=runs/tables.")
    if any(word.startswith("--config.fold=") for word in flags.config_words):
        raise ValueError("compare: --config.fold is of one run; pass --folds instead.")
    return _compare_rows(flags)


def _compare_runs(flags: argparse.Namespace) -> int:
    from fof_jax.evaluation import comparison_tables
    from fof_jax.report.comparison import build, runs

    result = runs.compare(flags.runs, unit=flags.unit, replicates=flags.replicates)
    print(comparison_tables.text(result))
    if flags.out is not None:
        build.write(flags.out, result)
        print(f"\ntables: {flags.out / build.NAME}.txt, .csv, .tex, .json, .html")
    return 0


def _compare_rows(flags: argparse.Namespace) -> int:
    import jax

    # Cells have processes of their own; this one must not take their device's memory.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")

    from fof_jax.cli import compare_cells, compare_rows
    from fof_jax.evaluation import comparison_tables
    from fof_jax.evaluation.comparison import Comparison
    from fof_jax.report.comparison import build
    from fof_jax.training import cells, preemption

    plan = compare_rows.make_plan(flags.config_words, sys.stdout)
    seeds = tuple(dict.fromkeys(flags.seeds or (plan.seed,)))
    job = compare_cells.Job(plan, cells.Folder(flags.workdir), seeds, _print)
    selected = job.select(flags.rows, flags.folds)
    job.print_plan(selected)
    if flags.dry_run:
        return 0
    out = flags.out or flags.workdir
    written = time.monotonic()

    def write() -> Comparison:
        made = job.compare(unit=flags.unit, replicates=flags.replicates)
        build.write(out, made, costs=job.costs(), cells=job.states())
        return made

    def after(cell: cells.Cell, stop: preemption.StopRequest) -> None:
        nonlocal written
        job.measure_cost(cell.row, stop)
        if time.monotonic() - written > REFRESH:
            write()
            written = time.monotonic()

    try:
        cells.run(job.folder, selected, job.words, after=after, log=_print)
        job.measure_costs(selected)
    finally:
        result = write()
    print(comparison_tables.text(result))
    print(f"\ntables: {out / build.NAME}.txt, .csv, .tex, .json, .html")
    ended = (cells.state(job.folder, cell) for cell in selected)
    return int(cells.State.FAILED in ended)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _some_names(text: str) -> list[str]:
    if names := _names(text):
        return names
    raise argparse.ArgumentTypeError("expected names with commas")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _some_names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not numbers with commas"
        ) from None


def _print(line: str) -> None:
    print(line, flush=True)
