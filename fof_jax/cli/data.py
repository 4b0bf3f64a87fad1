"""Build, check, split or preview a dataset.

python launch.py data init T.csv
python launch.py data build --config=configs/cohort.py --config.data.table=T.csv
python launch.py data check --config=configs/cohort.py --config.data.table=T.csv
python launch.py data split --config=configs/cohort.py
python launch.py data augment --config=configs/phantom.py --out=augment.png
python launch.py data phantom --config=configs/phantom.py --out=phantom.png
python launch.py data mosaic --config=configs/cohort.py --config.data.table=T.csv \
    --out=FOLDER
python launch.py data bags --config=configs/cohort.py --config.data.table=T.csv \
    --features=FOLDER --share=0.03 --out=BAGS
python launch.py data graphs --config=configs/cohort.py --processes=4 --sheet=graphs.png
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.cli import data_bags, data_build, data_graphs, data_init, data_mosaic
from fof_jax.data import mosaic
from fof_jax.data.prepare import data_seed, prepare
from fof_jax.data.progress import Out, warnings_to
from fof_jax.data.splits import leak_share, make_splits, write_splits
from fof_jax.data.validation import with_validation


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the action, --config, --out, and the flags of single actions."""
    parser.add_argument("action", choices=("init", "bags", "graphs", *ACTIONS))
    parser.add_argument(
        "table", type=Path, nargs="?", help="`init`: the table to write a config for"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="`init`: the table's column of image, patient, grade, fold or mask",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="PNG written by `augment` and `phantom`, folder written by `mosaic` "
        "and `bags`, config written by `init`",
    )
    data_mosaic.add_flags(parser)
    parser.add_argument(
        "--per_fold",
        type=int,
        help="`mosaic`, `bags`: number per fold (default: "
        f"{data_mosaic.USUAL.per_fold} mosaics, {data_bags.USUAL.per_fold} bags)",
    )
    data_bags.add_flags(parser)
    data_graphs.add_flags(parser)
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Runs the action; all but `init` load a config."""
    if flags.action == "init":
        return data_init.run(
            flags.table, out=flags.out, chosen=flags.column, program=flags.program
        )
    if flags.table is not None:
        raise ValueError(
            f"data {flags.action}: {flags.table} is not expected here. Pass the table "
            f"as --config.data.table={flags.table}."
        )
    config = config_flag.load(flags.config_words)
    if flags.action == "check":
        # Imported here: only this action needs JAX, to check what training checks.
        from fof_jax.training import build

        build.validate(config)
    if flags.action == "graphs":
        with warnings_to(sys.stdout):
            return data_graphs.run(flags, config, sys.stdout)
    if flags.action == "bags":
        return data_bags.run(config, flags)
    number = data_mosaic.USUAL.per_fold if flags.per_fold is None else flags.per_fold
    layout = mosaic.Layout(flags.grid, flags.tile, number)
    return act(flags.action, config, path=flags.out, layout=layout)


def act(
    action: str,
    config: ConfigDict,
    *,
    path: Path | None = None,
    layout: mosaic.Layout | None = None,
    out: Out | None = None,
) -> int:
    """Runs one action on the dataset of a config.

    Args:
      action: `build` (check everything, then write the store), `check` (list all
        errors, write nothing), `split` (write `splits.json` beside the store),
        `augment` (plot augmented samples, one region per class), `phantom` (plot
        twelve phantom regions with their masks) or `mosaic` (write a cohort whose
        grade one or two tiles of each image decide).
      config: `data.*`, `folds`, `seed`, `validation`, `augment.*`.
      path: output file of `augment` and `phantom`, None: ACTION.png; output folder of
        `mosaic`, None: mosaic.
      layout: of `mosaic`; None: 3 x 3 tiles of 112 pixels, 150 per fold.
      out: text output; None: the terminal.

    Returns:
      0.

    Raises:
      ValueError: an invalid action or config, errors in the data, or missing data.
    """
    out = sys.stdout if out is None else out
    if action not in ACTIONS:
        raise ValueError(
            f"data {action}: expected one of {', '.join(ACTIONS)}, as in "
            "python launch.py data build --config=configs/cohort.py"
        )
    with warnings_to(out):
        ACTIONS[action](config, out, path, layout or data_mosaic.USUAL)
    return 0


def _split(config: ConfigDict, out: Out) -> None:
    store, seed = prepare(config, out=out), data_seed(config)
    splits = make_splits(
        store, scheme=config.data.scheme, folds=config.folds, seed=seed
    )
    fraction = config.get("validation", 0.0)
    splits = with_validation(splits, store, fraction=fraction, seed=seed)
    path = Path(config.data.dir) / config.data.name / "splits.json"
    write_splits(path, splits, store)
    for k, (train, test) in enumerate(splits.folds):
        parts = {"train": train}
        parts |= {"validation": splits.validation[k]} if splits.validation else {}
        sides = []
        for name, rows in (parts | {"test": test}).items():
            counts = np.bincount(store.grades[rows], minlength=len(store.classes))
            sides.append(f"{name} {len(rows)} ({'/'.join(map(str, counts))})")
        print(f"fold {k}: {', '.join(sides)}", file=out)
    leak = leak_share(splits, store.patients)
    print(
        f"scheme {splits.scheme}: {100 * leak:.1f}% of test regions are of patients "
        f"in the training set\n{path}",
        file=out,
    )


def _augment(config: ConfigDict, out: Out, plot: Path) -> None:
    # Imported here: only this action needs JAX.
    from fof_jax.data.augment.options import Augmentation
    from fof_jax.data.augment.pipeline import contact_sheet

    store = prepare(config, out=out)
    first = [int(np.flatnonzero(store.grades == g)[0]) for g in set(store.grades)]
    contact_sheet(
        [store.read(i, config.data.image_size) for i in first],
        [store.images[i] for i in first],
        plot,
        spec=Augmentation(**config.augment.to_dict()),
        seed=config.seed,
        color=config.data.color,
    )
    print(f"plot: {plot}", file=out)


def _phantom(config: ConfigDict, out: Out, plot: Path) -> None:
    phantom = importlib.import_module("fof_jax.data.datasets.phantom.cohort")
    phantom.contact_sheet(
        plot, image_size=config.data.image_size, seed=data_seed(config)
    )
    print(f"plot: {plot}", file=out)


Action = Callable[[ConfigDict, Out, Path | None, mosaic.Layout], None]
ACTIONS: dict[str, Action] = {
    "build": lambda config, out, *_: data_build.build(config, out),
    "check": lambda config, out, *_: data_build.check(config, out),
    "split": lambda config, out, *_: _split(config, out),
    "augment": lambda config, out, path, _: _augment(
        config, out, path or Path("augment.png")
    ),
    "phantom": lambda config, out, path, _: _phantom(
        config, out, path or Path("phantom.png")
    ),
    "mosaic": lambda config, out, path, layout: data_mosaic.run(
        config, out, path or Path("mosaic"), layout
    ),
}
