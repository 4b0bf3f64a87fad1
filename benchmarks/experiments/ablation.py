"""Runs the paper's ablation on the phantom, and related studies, cell by cell.

    python benchmarks/experiments/ablation.py                     # all cells, in order
    python benchmarks/experiments/ablation.py --rows=FoF --seeds=42 --folds=0
    python benchmarks/experiments/ablation.py --set=choices
    python benchmarks/experiments/ablation.py --set=reasons
    python benchmarks/experiments/ablation.py --table   # results so far, as Markdown

A cell is one fold of one row with one seed of `configs/phantom.py:study`. A cell that
was interrupted is resumed; results of a finished cell are written to
benchmarks/results/SET/ROW-SEED-FOLD.json, and it is not run again. All cells of a set
have the same cohort and split: the seed changes initialization, data order and
augmentation. Several processes may share one --workdir, with different seeds, folds or
rows. A cell uses one device: run one process per core (`taskset`), with the allocator
settings of docs/performance.md.
`--set=choices` changes one choice of docs/equations.md at a time, on one fold;
`--set=reasons` tests possible reasons for the ablation's result on other regions.
"""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.conditions import conditions
from benchmarks.experiments.ablation_table import table
from fof_jax import files
from fof_jax.cli import compiled
from fof_jax.configs import phantom as phantom_config
from fof_jax.data import prepare, splits, store
from fof_jax.evaluation import localization, predictions
from fof_jax.training import crossval

RESULTS = Path(__file__).parents[1] / "results"
SEEDS = (42, 43, 44)


@dataclasses.dataclass(frozen=True)
class Row:
    """Changes of one row to `configs/phantom.py:study`.

    Attributes:
      argument: argument of the config file.
      fields: config fields that differ.
      after: row of the same set whose fold has the initial weights.
    """

    argument: str = ""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: str | None = None


@dataclasses.dataclass(frozen=True)
class Set:
    """Rows to compare, with their data.

    Attributes:
      rows: rows by name.
      reference: row to which differences are computed.
      folds, seeds: defaults of the flags.
      cohort: seed of the regions and of their split.
    """

    rows: dict[str, Row]
    reference: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...] = SEEDS
    cohort: int = 42


SETS = {
    "ablation": Set(
        rows={
            "baseline": Row("baseline"),
            "FoF w-o FRL": Row("wo_frl"),
            "FoF w-o MCA": Row("wo_mca"),
            "FoF": Row(),
            # The patient split, to have the same folds as the other rows.
            "release": Row("release", {"data.scheme": "patient"}),
        },
        reference="FoF",
        folds=(0, 1, 2, 3, 4),
    ),
    "choices": Set(
        rows={
            "as in the study": Row(),
            "cam.block -1": Row(fields={"cam.block": -1}),
            "cam.block -3": Row(fields={"cam.block": -3}),
            "cam.scale max": Row(fields={"cam.scale": "max"}),
            "views.fill mean": Row(fields={"views.fill": "mean"}),
            "views.fill token": Row(fields={"views.fill": "token"}),
            "mca.normalize_positives off": Row(
                fields={"mca.normalize_positives": False}
            ),
        },
        reference="as in the study",
        folds=(0,),
    ),
    # Possible reasons for the ablation's result, on regions that are not part of it.
    "reasons": Set(
        rows={
            "baseline": Row("baseline"),
            "FoF": Row(),
            "lambda_pos 0.25": Row(fields={"lambda_pos": 0.25}),
            "lambda_neg 0.25": Row(fields={"lambda_neg": 0.25}),
            "cam.target predicted": Row(fields={"cam.target": "predicted"}),
            "lambda_frl 0": Row(fields={"lambda_frl": 0.0}),
            "theta 0.3": Row(fields={"theta": 0.3}),
            "heads x 10": Row(fields={"optimizer.head_factor": 10.0}),
            "baseline, half the rate": Row(
                "baseline", {"optimizer.learning_rate": 1e-3}
            ),
            "FoF, half the rate": Row(fields={"optimizer.learning_rate": 1e-3}),
            # 10 epochs without masked views, then 10 with and without them.
            "w-o FRL": Row("wo_frl"),
            "w-o FRL after w-o FRL": Row("wo_frl", after="w-o FRL"),
            "FoF after w-o FRL": Row(after="w-o FRL"),
            "FoF, lambda_pos 0.25, after w-o FRL": Row(
                fields={"lambda_pos": 0.25}, after="w-o FRL"
            ),
            "baseline, 30 epochs": Row("baseline", {"epochs": 30}),
            "FoF, 30 epochs": Row(fields={"epochs": 30}),
        },
        reference="FoF",
        folds=(0, 1),
        seeds=(42,),
        cohort=7,
    ),
}


def cell_config(
    which: str, row: str, seed: int, fold: int, changes: dict[str, Any]
) -> ConfigDict:
    """Config of one cell; `changes` apply to all cells (for a smaller run)."""
    spec = SETS[which].rows[row]
    argument = f"study-{spec.argument}" if spec.argument else "study"
    config = phantom_config.get_config(argument)
    config.update_from_flattened_dict(spec.fields | changes)
    config.seed, config.fold, config.log_every = seed, fold, 100
    return config


def run_cell(
    config: ConfigDict, data: store.Store, cohort: int, workdir: Path
) -> dict[str, Any]:
    """Trains one fold and collects its results."""
    fold = config.fold
    folds = splits.make_splits(
        data, scheme=config.data.scheme, folds=config.folds, seed=cohort
    )
    if not (workdir / "splits.json").exists():
        workdir.mkdir(parents=True, exist_ok=True)
        splits.write_splits(workdir / "splits.json", folds, data)
    crossval.run(config, data, workdir)
    folder = workdir / f"fold_{fold}"
    tested = predictions.read_predictions(folder / "predictions.csv")
    located = {
        row["image"]: row for row in localization.read(folder / localization.FILE_NAME)
    }
    regions = {
        "image": tested.image,
        "patient": tested.patient,
        "y": tested.y.tolist(),
        "prob": tested.prob.round(4).tolist(),
    } | {
        name: [_rounded(located.get(image, {}).get(name)) for image in tested.image]
        for name in localization.METRICS
    }
    made = json.loads((workdir / "config.json").read_text())["made_with"]
    return {
        "regions": regions,
        "training": _training(folder / "metrics.jsonl"),
        "config": config.to_dict(),
        "commit": made["commit"],
        "conditions": conditions(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _training(path: Path, points: int = 20) -> list[dict[str, float]]:
    """Loss terms, fraction of kept patches and gradient norm at `points` steps."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "total" in line]
    selected = np.unique(np.linspace(0, len(steps) - 1, points).astype(int))
    return [
        {k: round(v, 5) if isinstance(v, float) else v for k, v in steps[i].items()}
        for i in selected
    ]


def name_of(row: str, seed: int, fold: int) -> str:
    """File name of a cell's results."""
    return re.sub(r"[^\w.-]+", "_", f"{row}-{seed}-{fold}") + ".json"


def main(argv: list[str] | None = None) -> None:
    """Runs the selected cells that have no results yet, or prints their table."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--set", choices=tuple(SETS), default="ablation")
    flags.add_argument("--rows", action="append", help="may be repeated; default: all")
    flags.add_argument("--seeds", type=int, action="append")
    flags.add_argument("--folds", type=int, action="append")
    flags.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    flags.add_argument("--results", type=Path, default=RESULTS)
    flags.add_argument("--regions", type=int, help="for a smaller run")
    flags.add_argument("--epochs", type=int, help="for a smaller run")
    flags.add_argument("--table", action="store_true")
    args = flags.parse_args(argv)
    selected = SETS[args.set]
    rows = args.rows or list(selected.rows)
    for row in rows:
        if row not in selected.rows:
            flags.error(f"--rows: {row!r} is not one of {', '.join(selected.rows)}")
    folder = args.results / args.set
    if args.table:
        print(table(folder, list(selected.rows), selected.reference))
        return
    changes = {
        field: value
        for field, value in (("data.regions", args.regions), ("epochs", args.epochs))
        if value is not None
    }
    compiled.use(None)  # shared by all cells
    for seed in args.seeds or selected.seeds:
        for fold in args.folds or selected.folds:
            for row in rows:
                path = folder / name_of(row, seed, fold)
                if path.exists():
                    print(f"{path.name}: exists already")
                    continue
                config = cell_config(args.set, row, seed, fold, changes)
                if (after := selected.rows[row].after) is not None:
                    initial = Path(name_of(after, seed, fold)).stem
                    start = args.workdir / args.set / initial / f"fold_{fold}"
                    config.init.checkpoint = str(start)
                config.data.dir = str(args.workdir / "data")
                config.seed = selected.cohort  # seed of the regions
                data = prepare.prepare(config)
                config.seed = seed
                workdir = args.workdir / args.set / f"{path.stem}"
                result = run_cell(config, data, selected.cohort, workdir)
                text = json.dumps({"row": row, "seed": seed, "fold": fold} | result)
                files.write_text(path, text + "\n")
                print(f"{path.name}: written")


if __name__ == "__main__":
    main()
