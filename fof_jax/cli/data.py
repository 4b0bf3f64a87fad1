"""From raw files to a store, its faults, its folds, and pictures of it.

python launch.py data build --config=configs/cohort.py --config.data.table=T.csv
python launch.py data check --config=configs/cohort.py --config.data.table=T.csv
python launch.py data split --config=configs/cohort.py
python launch.py data augment --config=configs/phantom.py --out=augment.png
python launch.py data phantom --config=configs/phantom.py --out=phantom.png
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.data import metadata, near_duplicates
from fof_jax.data.image_sizes import check_sizes, measure
from fof_jax.data.prepare import (
    phantom_store,
    prepare,
    read_raw,
    source,
    subset_of,
    write_store,
)
from fof_jax.data.progress import Out, warnings_to
from fof_jax.data.quality import warn_of_oddities
from fof_jax.data.splits import leak_share, make_splits, write_splits
from fof_jax.data.store import open_store

ACTIONS = ("build", "check", "split", "augment", "phantom")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The action, --config and --out."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "--out", type=Path, help="PNG that `augment` and `phantom` draw"
    )
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Loads the config and acts."""
    config = config_flag.load(flags.config_words)
    return act(flags.action, config, picture=flags.out)


def act(
    action: str,
    config: ConfigDict,
    *,
    picture: Path | None = None,
    out: Out | None = None,
) -> int:
    """Runs one action on the data that a config describes.

    Args:
      action: `build` (check whole, then write the store), `check` (list every fault,
        write nothing), `split` (write `splits.json` beside the store), `augment`
        (draw what the augmentation does to a region a class) or `phantom` (draw
        twelve phantom regions beside their masks).
      config: `data.*`, `folds`, `seed`, `augment.*`.
      picture: file of `augment` and `phantom`; ACTION.png if None.
      out: where lines go; the terminal if None.

    Returns:
      0.

    Raises:
      ValueError: a bad action or config, faults in the data, data that are missing.
    """
    out = sys.stdout if out is None else out
    picture = picture or Path(f"{action}.png")
    actions: dict[str, Callable[[], None]] = {
        "build": lambda: _build(config, out),
        "check": lambda: _check(config, out),
        "split": lambda: _split(config, out),
        "augment": lambda: _augment(config, picture, out),
        "phantom": lambda: _sheet(config, picture, out),
    }
    if action not in actions:
        raise ValueError(
            f"data {action}: expected one of {', '.join(actions)}, as in "
            "python launch.py data build --config=configs/cohort.py"
        )
    with warnings_to(out):
        actions[action]()
    return 0


def _build(config: ConfigDict, out: Out) -> None:
    if source(config) == "phantom":
        store = phantom_store(config, out)
    else:
        cohort = read_raw(config, out)
        write_store(config, cohort, subset_of(config), out)
        store = open_store(config.data.dir, config.data.name)
    _summary(store, out)
    print(f"store: {store.folder}", file=out)


def _check(config: ConfigDict, out: Out) -> None:
    if source(config) == "phantom":
        raise ValueError("data check: the phantom is drawn, there is no table to check")
    cohort = read_raw(config, out)
    table = metadata.from_cohort(cohort)
    small, side = config.data.small, config.data.image_size
    views = (config.data.train_view, config.data.test_view)
    check_sizes(
        measure(cohort), table.images, small=small, image_size=side, views=views
    )
    files = [row.image for row in cohort.rows]
    thumbs = near_duplicates.thumbnails(files, threads=max(config.data.threads, 1))
    alike = near_duplicates.near_duplicates(thumbs, table.patients)
    warn_of_oddities(table, folds=config.folds, alike=alike)
    _summary(table, out)
    print("no faults", file=out)


def _split(config: ConfigDict, out: Out) -> None:
    store = prepare(config, out=out)
    splits = make_splits(
        store, scheme=config.data.scheme, folds=config.folds, seed=config.seed
    )
    path = Path(config.data.dir) / config.data.name / "splits.json"
    write_splits(path, splits, store)
    for k, (train, test) in enumerate(splits.folds):
        counts = [
            "/".join(
                map(str, np.bincount(store.grades[s], minlength=len(store.classes)))
            )
            for s in (train, test)
        ]
        print(
            f"fold {k}: train {len(train)} ({counts[0]}), test {len(test)} "
            f"({counts[1]})",
            file=out,
        )
    leak = leak_share(splits, store.patients)
    print(
        f"scheme {splits.scheme}: {100 * leak:.1f}% of test regions have a patient "
        f"who also trains\n{path}",
        file=out,
    )


def _augment(config: ConfigDict, picture: Path, out: Out) -> None:
    # JAX is needed for this action alone.
    from fof_jax.data.augment.options import Augmentation
    from fof_jax.data.augment.pipeline import contact_sheet

    store = prepare(config, out=out)
    first = [int(np.flatnonzero(store.grades == g)[0]) for g in set(store.grades)]
    contact_sheet(
        [store.read(i, config.data.image_size) for i in first],
        [store.images[i] for i in first],
        picture,
        spec=Augmentation(**config.augment.to_dict()),
        seed=config.seed,
        color=config.data.color,
    )
    print(f"picture: {picture}", file=out)


def _sheet(config: ConfigDict, picture: Path, out: Out) -> None:
    phantom = importlib.import_module("fof_jax.data.datasets.phantom.cohort")
    phantom.contact_sheet(picture, image_size=config.data.image_size, seed=config.seed)
    print(f"picture: {picture}", file=out)


def _summary(table: metadata.Columns, out: Out) -> None:
    counts = np.bincount(table.grades, minlength=len(table.classes)).tolist()
    graded = ", ".join(f"{c} {n}" for c, n in zip(table.classes, counts, strict=True))
    print(
        f"{len(table)} images of {len(set(table.patients))} patients: {graded}",
        file=out,
    )
    for name, known in zip(table.biomarkers, table.known.T, strict=True):
        print(f"  {name}: known for {known.sum()} of {len(table)}", file=out)
    if not table.biomarkers:
        print("  no biomarkers: L_MCA, Eq. (5), is off", file=out)
    if table.omics is not None:
        whole = int((~np.isnan(table.omics).any(axis=1)).sum())
        print(
            f"  molecular vector: {len(table.omic_names)} columns, complete for "
            f"{whole} of {len(table)}",
            file=out,
        )
