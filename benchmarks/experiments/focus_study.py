"""Whether focusing helps a pretrained encoder on real images, cell by cell.

    python launch.py data mosaic --config=configs/cohort.py … --out=mosaic
    python benchmarks/experiments/focus_study.py --table=mosaic/table.csv \\
        --weights=weights/dinov2-s14                       # all cells, in order
    python benchmarks/experiments/focus_study.py … --rows=FoF --folds=0 --seeds=42
    python benchmarks/experiments/focus_study.py --show    # results so far, as Markdown

A cell is one fold of one row with one seed of one set (`--set`); the sets and rows are
below. The first command is in docs/results.md in full. A cell that was interrupted is
resumed; a finished cell is written to benchmarks/results/focus_study/SET and not run
again. Cells differ in the row's fields only; the seed changes initialization of the
heads, data order and augmentation. A cell uses one device.

The areas under deletion and insertion curves are not measured: they compare maps of one
model, not models trained with and without masked views, and take 22 passes an image.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.experiments import ablation, ablation_table
from fof_jax import files
from fof_jax.cli import allocator, compiled
from fof_jax.configs import cohort as cohort_config
from fof_jax.data import prepare, store
from fof_jax.data.errors import MissingDataError
from fof_jax.evaluation import localization

RESULTS = ablation.RESULTS / "focus_study"
COLUMNS = (*ablation_table.METRICS, "pointing", "inside", "iou")
COHORT_SEED = 42  # of the split
PATHS = ("data.dir", "data.table", "data.raw_dir", "init.checkpoint")
GLANDS = tuple(
    f"m_{name}_hi" for name in ("count", "largest", "spread", "edge", "holes", "share")
)

# Fields of all cells: the recommendations of docs/pretrained.md. The epochs were set
# after the trial of `mosaic_126` and before any other cell.
COMMON: dict[str, Any] = {
    "encoder": "DINOv2-S/14",
    "init.class_token": "keep",
    "optimizer.freeze_blocks": 6,
    "optimizer.head_factor": 30.0,
    "epochs": 5,
    "batch_size": 16,
    "data.classes": ("0", "1", "2"),
    "mca.normalize_positives": True,
    # Crops would cut deciding tiles off.
    "augment.crop_area": (1.0, 1.0),
    "augment.crop_aspect": (1.0, 1.0),
    "augment.elastic": 0.0,
    "attention": "naive",
    "remat": "none",
    "eval_batch_size": 25,
    "log_every": 10,
}
MOSAIC = {
    "data.biomarkers": GLANDS,
    "data.biomarkers_per": "region",
    "data.scheme": "fold",
}
SETS: dict[str, dict[str, Any]] = {
    "mosaic": MOSAIC | {"data.image_size": 168},  # tiles of 4 x 4 patches
    # Too few steps for the baseline to learn the grade, see docs/results.md.
    "mosaic_126": MOSAIC | {"data.image_size": 126, "epochs": 3},
    # The baseline of fold 0 has learned the grade after two epochs, docs/results.md.
    "ebhi_gray": {
        "data.image_size": 112,
        "epochs": 2,
        "data.biomarkers": GLANDS,
        "data.color": False,
    },
    "ph2": {
        "data.image_size": 112,
        "data.biomarkers": (
            "asymmetry",
            "network",
            "dots",
            "streaks",
            "regression",
            "veil",
        ),
    },
    # By `phantom_table.py`; twice the pixels, so that a patch is one of `mu/8`'s.
    "phantom": {
        "data.image_size": 112,
        "data.biomarkers": ("idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2"),
    },
}
PACKED = {"views.fill": "drop"}
LIGHTER = {"lambda_pos": 0.25, "lambda_neg": 0.25}
ROWS = {
    "baseline": ablation.Row("baseline"),
    "FoF": ablation.Row(),
    "w-o FRL": ablation.Row("wo_frl"),
    "w-o MCA": ablation.Row("wo_mca"),
    "FoF, views 0.25": ablation.Row(fields=LIGHTER),
    "FoF packed": ablation.Row(fields=PACKED),
    "FoF packed, views 0.25, ramp": ablation.Row(fields=PACKED | LIGHTER),
    "baseline, equal compute": ablation.Row("baseline"),
}
REFERENCE = "baseline"
# Epochs of a row, times those of its set: FoF passes the encoder three times a step.
LONGER = {"baseline, equal compute": 3}
# Share of a row's epochs in which the weight of its masked views grows.
RAMP = {"FoF packed, views 0.25, ramp": 0.4}


def cell_config(
    which: str, row: str, seed: int, fold: int, changes: dict[str, Any]
) -> ConfigDict:
    """Config of one cell; `changes` apply to all cells."""
    config = cohort_config.get_config(ROWS[row].argument)
    fields = COMMON | SETS[which] | ROWS[row].fields | changes
    fields["epochs"] *= LONGER.get(row, 1)
    if row in RAMP:
        fields["views.warmup_epochs"] = RAMP[row] * fields["epochs"]
    config.update_from_flattened_dict(fields)
    config.seed, config.fold = seed, fold
    return config


def open_data(config: ConfigDict) -> store.Store:
    """The store of the set's table, which is built the first time."""
    try:
        return prepare.prepare(config)
    except MissingDataError:
        cohort = prepare.read_raw(config, sys.stdout)
        prepare.write_store(config, cohort, "", sys.stdout)
        return prepare.prepare(config)


def no_curves(probability: Any, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stands for `localization.curves`: no areas."""
    del probability
    missing = np.full(len(rank), np.nan)
    return missing, missing


def run_cell(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains one fold and collects its results, without paths of this machine.

    Images and patients are numbers, because the cohorts' own names are not ours to
    publish: an image's row of the table, a patient's place in the order of names.
    """
    data = open_data(config)
    with mock.patch.object(localization, "curves", no_curves):
        result = ablation.run_cell(config, data, COHORT_SEED, workdir)
    regions = result["regions"]
    for name in ("deletion", "insertion"):
        del regions[name]
    row = {name: i for i, name in enumerate(data.images)}
    patient = {name: i for i, name in enumerate(sorted(set(data.patients)))}
    regions["image"] = [row[name] for name in regions["image"]]
    regions["patient"] = [patient[name] for name in regions["patient"]]
    for path in PATHS:
        section, field = path.split(".")
        result["config"][section][field] = None
    return result


def main(argv: list[str] | None = None) -> None:
    """Runs the selected cells that have no results yet, or prints their table."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--set", choices=tuple(SETS), default="mosaic")
    flags.add_argument("--rows", action="append", choices=tuple(ROWS))
    flags.add_argument("--seeds", type=int, action="append")
    flags.add_argument("--folds", type=int, action="append")
    flags.add_argument("--table", help="CSV table of the set")
    flags.add_argument("--weights", help="folder written by `import`")
    flags.add_argument("--workdir", type=Path, default=Path("runs/focus_study"))
    flags.add_argument("--results", type=Path, default=RESULTS)
    flags.add_argument("--show", action="store_true", help="print the table only")
    flags.add_argument("--epochs", type=int, help="for a smaller run")
    args = flags.parse_args(argv)
    folder, rows = args.results / args.set, args.rows or list(ROWS)
    if args.show:
        print(ablation_table.table(folder, rows, REFERENCE, columns=COLUMNS))
        return
    if not args.table:
        flags.error("--table: expected the CSV table of the set, e.g. mosaic/table.csv")
    changes: dict[str, Any] = {
        "data.table": args.table,
        "data.dir": str(args.workdir / "data" / args.set),
        "init.checkpoint": args.weights,
    }
    if args.epochs is not None:
        changes["epochs"] = args.epochs
    allocator.keep_freed_memory(one_arena=True)
    compiled.use(None)  # shared by all cells
    for seed in args.seeds or ablation.SEEDS:
        for fold in args.folds or range(5):
            for row in rows:
                path = folder / ablation.name_of(row, seed, fold)
                if path.exists():
                    print(f"{path.name}: exists already")
                    continue
                config = cell_config(args.set, row, seed, fold, changes)
                result = run_cell(config, args.workdir / args.set / path.stem)
                cell = {"set": args.set, "row": row, "seed": seed, "fold": fold}
                files.write_text(path, json.dumps(cell | result) + "\n")
                print(f"{path.name}: written", flush=True)


if __name__ == "__main__":
    main()
