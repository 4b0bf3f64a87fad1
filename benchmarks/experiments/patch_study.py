"""Whether focusing helps on real images whose patches a frozen encoder has encoded.

    python benchmarks/experiments/patch_study.py --set=ebhi_gray \\
        --table=ebhi/table.csv --weights=weights/dinov2-s14 --choose  # of fold 0: rates
    python benchmarks/experiments/patch_study.py --set=… --table=… --weights=…
    python benchmarks/experiments/patch_study.py --show   # results so far, as Markdown

The sets, folds and biomarkers are those of `focus_study`, which trains blocks of the
encoder. Here the encoder is frozen as a whole and each image is a bag of its patches,
encoded once, so that all rows, folds and seeds can be run on one CPU: a cell takes
seconds instead of minutes. What is trained, and how, is that of `bag_study`; all
patches of an image are used.

A finished cell is written to benchmarks/results/patch_study/SET and not run again.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.experiments import bag_study, bag_study_table, focus_study
from benchmarks.experiments.patch_study_data import read
from fof_jax import files
from fof_jax.cli import allocator, compiled
from fof_jax.configs import cohort
from fof_jax.types import DatasetInfo

RESULTS = bag_study_table.RESULTS.parent / "patch_study"
SEEDS = (42, 43, 44)
# About 400 steps of 16 images, as in `bag_study`; set before the first cell.
EPOCHS = {"ebhi_gray": 4, "mosaic": 12, "ph2": 40, "phantom": 4}
MASKED = "structures {area} of the patches of an image that has any"
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LONGER = focus_study.LONGER  # epochs of a row, times those of its set
RAMP = {"FoF, ramp": 0.4}  # see `focus_study.RAMP`
# Row -> argument of configs/slides.py, and fields that differ.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean pooling": ("mean_pooling", {}),
    "baseline": ("baseline", {}),
    "baseline, equal compute": ("baseline", {}),
    "w-o FRL": ("wo_frl", {}),
    "w-o MCA": ("wo_mca", {}),
    "FoF": ("", {}),
    "FoF, views 0.25": ("", focus_study.LIGHTER),
    "FoF, ramp": ("", {}),
    "FoF packed": ("", focus_study.PACKED),
}
# Rows whose fields were removed after they had been measured: they have cells only.
REMOVED = ("FoF, keep_share 0.25", "FoF, stop_gradient", "FoF packed, remedies")
WITHOUT_VIEWS = ("mean pooling", "baseline", "baseline, equal compute", "w-o FRL")


def rate_name(row: str, rate: float) -> str:
    """Name of a row with a rate, among the cells that choose one."""
    return f"{row}, rate {rate:g}"


def cell_fields(
    which: str, row: str, rate: float, tokens: int, epochs: int | None = None
) -> dict[str, Any]:
    """Fields of a row's config on a set of images of so many patches."""
    fields = bag_study.COMMON | ROWS[row][1]
    fields |= {"data.max_tokens": tokens, "optimizer.learning_rate": rate}
    fields["epochs"] = (epochs or EPOCHS[which]) * LONGER.get(row, 1)
    fields["views.warmup_epochs"] = RAMP.get(row, 0.0) * fields["epochs"]
    return fields


def family_of(row: str) -> str:
    """The row whose rate a row takes."""
    return "baseline" if row in WITHOUT_VIEWS else "FoF"


def best_rate(folder: Path, family: str) -> float:
    """The rate with the largest AUC of a family, of the cells of `--choose`.

    Raises:
      FileNotFoundError: a cell is missing.
    """
    names = [rate_name(family, rate) for rate in RATES]
    for name in names:
        path = folder / bag_study_table.name_of(name, SEEDS[0], 0)
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there yet. Run with --choose first.")
    aucs = bag_study_table.mean_auc(folder, names)
    return max(RATES, key=lambda rate: aucs[rate_name(family, rate)])


def main(argv: list[str] | None = None) -> None:
    """Runs the selected cells that have no results yet, or prints their tables."""
    layout = argparse.RawDescriptionHelpFormatter
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    flags.add_argument("--set", choices=tuple(EPOCHS))
    flags.add_argument("--table", help="CSV table of the set")
    flags.add_argument("--weights", help="folder written by `import`")
    flags.add_argument("--choose", action="store_true", help="cells of all rates")
    flags.add_argument("--rows", action="append", choices=tuple(ROWS))
    flags.add_argument("--seeds", type=int, action="append")
    flags.add_argument("--folds", type=int, action="append")
    flags.add_argument("--workdir", type=Path, default=Path("runs/patch_study"))
    flags.add_argument("--results", type=Path, default=RESULTS)
    compiled.add_flag(flags)
    flags.add_argument("--epochs", type=int, help="for a smaller run")
    flags.add_argument("--show", action="store_true", help="print the tables only")
    args = flags.parse_args(argv)
    if args.show:
        print(tables(args.results, args.rows or [*ROWS, *REMOVED]))
        return
    if not (args.set and args.table and args.weights):
        flags.error("expected --set, --table and --weights, or --show")
    allocator.keep_freed_memory(one_arena=True)
    compiled.use(args.compiled)
    config = cohort.get_config()
    fields = focus_study.SETS[args.set] | {
        "data.classes": focus_study.COMMON["data.classes"],
        "data.table": args.table,
        "init.checkpoint": args.weights,
        "seed": focus_study.COHORT_SEED,
    }
    config.update_from_flattened_dict(fields)
    bags = read(config, args.workdir / args.set)
    info = DatasetInfo(bag_study.CLASSES, bags.names, ())
    tokens = len(bags.masks[0])
    folder = args.results / args.set
    choices = args.results / "rates" / args.set

    @functools.cache
    def runner(row: str, rate: float) -> bag_study.Runner:
        own = cell_fields(args.set, row, rate, tokens, args.epochs)
        return bag_study.Runner(ROWS[row][0], own, info)

    rate_of = functools.cache(functools.partial(best_rate, choices))

    def run(path: Path, name: str, row: str, rate: float, seed: int, fold: int) -> None:
        if path.exists():
            return
        cell = {"set": args.set, "row": name, "rate": rate, "seed": seed, "fold": fold}
        result = bag_study.run_cell(runner(row, rate), bags, seed, fold)
        files.write_text(path, json.dumps(cell | result) + "\n")
        print(f"{args.set} {path.name}: {result['seconds']['wall']:.0f} s", flush=True)

    if args.choose:
        for row in ("baseline", "FoF"):
            for rate in RATES:
                name = rate_name(row, rate)
                path = choices / bag_study_table.name_of(name, SEEDS[0], 0)
                run(path, name, row, rate, SEEDS[0], 0)
        return
    for seed in args.seeds or SEEDS:
        for fold in args.folds or range(5):
            for row in args.rows or ROWS:
                path = folder / bag_study_table.name_of(row, seed, fold)
                run(path, row, row, rate_of(family_of(row)), seed, fold)


def tables(results: Path, rows: list[str]) -> str:
    """The table of each set that has cells, and of the rates that were tried."""
    parts = []
    for which in EPOCHS:
        names = [rate_name(row, rate) for row in ("baseline", "FoF") for rate in RATES]
        aucs = bag_study_table.mean_auc(results / "rates" / which, names)
        if aucs:
            each = ", ".join(f"{name} {100 * auc:.1f}" for name, auc in aucs.items())
            parts.append(f"{which}: AUC of fold 0, seed {SEEDS[0]}: {each}.")
        if (results / which).is_dir():
            parts.append(bag_study_table.table(results / which, rows, which, MASKED))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
