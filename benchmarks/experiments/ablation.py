"""The paper's ablation on the phantom, cell by cell; choices; reasons.

    python benchmarks/experiments/ablation.py                     # all cells, in order
    python benchmarks/experiments/ablation.py --rows=FoF --seeds=42 --folds=0
    python benchmarks/experiments/ablation.py --set=choices
    python benchmarks/experiments/ablation.py --set=reasons
    python benchmarks/experiments/ablation.py --table   # results so far, as Markdown

A cell is one fold of one row under one seed of `configs/phantom.py:study`. It is
trained where it was stopped, and written to benchmarks/results/SET/ROW-SEED-FOLD.json
when it is whole; a cell that is there is not run again. All cells of a set have one
cohort and one split: a seed alters parameters, order and augmentation.
Several of these may run side by side on one --workdir, each with seeds, folds or rows
of its own; a cell uses one device, so that one core each serves best (`taskset`), with
the allocator's settings of docs/performance.md.
`--set=choices` alters one choice of docs/equations.md at a time, on one fold;
`--set=reasons` looks for reasons of the ablation's order on other regions.
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
from fof_jax.configs import phantom as phantom_config
from fof_jax.data import prepare, splits, store
from fof_jax.evaluation import localization, predictions
from fof_jax.training import compilation, crossval

RESULTS = Path(__file__).parents[1] / "results"
SEEDS = (42, 43, 44)


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row alters of `configs/phantom.py:study`.

    Attributes:
      argument: of the configuration.
      fields: that differ from it.
      after: the row of the same set whose fold gives the weights to begin with.
    """

    argument: str = ""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: str | None = None


@dataclasses.dataclass(frozen=True)
class Set:
    """Rows that are compared, and on what.

    Attributes:
      rows: by name.
      reference: the row that differences are taken to.
      folds, seeds: that are run unless others are asked for.
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
            # The patient split, so that its folds are those of the others.
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
    # Where the order of the ablation comes from, on regions that it does not report.
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
    """The configuration of one cell; `changes` are for all cells (a smaller run)."""
    given = SETS[which].rows[row]
    words = ("study", given.argument)
    config = phantom_config.get_config("-".join(w for w in words if w))
    config.update_from_flattened_dict(given.fields | changes)
    config.seed, config.fold, config.log_every = seed, fold, 100
    return config


def run_cell(
    config: ConfigDict, data: store.Store, cohort: int, workdir: Path
) -> dict[str, Any]:
    """Trains one fold and gathers what is known of it."""
    fold = config.fold
    given = splits.make_splits(
        data, scheme=config.data.scheme, folds=config.folds, seed=cohort
    )
    if not (workdir / "splits.json").exists():
        workdir.mkdir(parents=True, exist_ok=True)
        splits.write_splits(workdir / "splits.json", given, data)
    crossval.run(config, data, workdir)
    folder = workdir / f"fold_{fold}"
    tested = predictions.read_predictions(folder / "predictions.csv")
    pointed = {
        row["image"]: row for row in localization.read(folder / localization.FILE_NAME)
    }
    regions = {
        "image": tested.image,
        "patient": tested.patient,
        "y": tested.y.tolist(),
        "prob": tested.prob.round(4).tolist(),
    } | {
        name: [_rounded(pointed.get(image, {}).get(name)) for image in tested.image]
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
    """The terms of L, the share of kept patches and the gradient's norm, thinned."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "total" in line]
    at = np.unique(np.linspace(0, len(steps) - 1, points).astype(int))
    return [
        {k: round(v, 5) if isinstance(v, float) else v for k, v in steps[i].items()}
        for i in at
    ]


def name_of(row: str, seed: int, fold: int) -> str:
    """File name of a cell's results."""
    return re.sub(r"[^\w.-]+", "_", f"{row}-{seed}-{fold}") + ".json"


def main(argv: list[str] | None = None) -> None:
    """Runs the cells that are asked for and not there yet, or prints their table."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--set", choices=tuple(SETS), default="ablation")
    flags.add_argument("--rows", action="append", help="repeat for more; unset is all")
    flags.add_argument("--seeds", type=int, action="append")
    flags.add_argument("--folds", type=int, action="append")
    flags.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    flags.add_argument("--results", type=Path, default=RESULTS)
    flags.add_argument("--regions", type=int, help="of a smaller run")
    flags.add_argument("--epochs", type=int, help="of a smaller run")
    flags.add_argument("--table", action="store_true")
    given = flags.parse_args(argv)
    known = SETS[given.set]
    rows = given.rows or list(known.rows)
    for row in rows:
        if row not in known.rows:
            flags.error(f"--rows: {row!r} is none of {', '.join(known.rows)}")
    folder = given.results / given.set
    if given.table:
        print(table(folder, list(known.rows), known.reference))
        return
    changes = {
        field: value
        for field, value in (("data.regions", given.regions), ("epochs", given.epochs))
        if value is not None
    }
    compilation.use_cache(given.workdir / "compiled")  # one for all cells
    for seed in given.seeds or known.seeds:
        for fold in given.folds or known.folds:
            for row in rows:
                path = folder / name_of(row, seed, fold)
                if path.exists():
                    print(f"{path.name}: there already")
                    continue
                config = cell_config(given.set, row, seed, fold, changes)
                if (after := known.rows[row].after) is not None:
                    begun = Path(name_of(after, seed, fold)).stem
                    start = given.workdir / given.set / begun / f"fold_{fold}"
                    config.init.checkpoint = str(start)
                config.data.dir = str(given.workdir / "data")
                config.seed = known.cohort  # of the regions that are drawn
                data = prepare.prepare(config)
                config.seed = seed
                workdir = given.workdir / given.set / f"{path.stem}"
                found = run_cell(config, data, known.cohort, workdir)
                text = json.dumps({"row": row, "seed": seed, "fold": fold} | found)
                files.write_text(path, text + "\n")
                print(f"{path.name}: written")


if __name__ == "__main__":
    main()
