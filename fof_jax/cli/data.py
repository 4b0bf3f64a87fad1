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
import contextlib
import dataclasses
import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.cli import data_bags, data_graphs, data_init
from fof_jax.data import metadata, mosaic, near_duplicates
from fof_jax.data.bags.index import BagIndex
from fof_jax.data.cache import decoding_threads
from fof_jax.data.cohort import Cohort
from fof_jax.data.errors import DataWarning, MissingDataError
from fof_jax.data.graphs import folder
from fof_jax.data.image_sizes import check_sizes, measure
from fof_jax.data.prepare import (
    build_origin,
    data_seed,
    external_folds,
    phantom_store,
    prepare,
    read_raw,
    source,
    write_store,
)
from fof_jax.data.progress import Out, progress_to, warnings_to
from fof_jax.data.quality import warn_about_quality
from fof_jax.data.splits import (
    EXTERNAL_SCHEMES,
    leak_share,
    make_splits,
    write_splits,
)
from fof_jax.data.store import open_store


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
    usual = mosaic.Layout()
    for name, meaning in (
        ("grid", "tiles per side"),
        ("tile", "side of a tile in pixels"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(usual, name),
            help=f"`mosaic`: {meaning} (default: %(default)s)",
        )
    parser.add_argument(
        "--per_fold",
        type=int,
        help=f"`mosaic`, `bags`: number per fold (default: {usual.per_fold} mosaics, "
        f"{data_bags.USUAL.per_fold} bags)",
    )
    data_bags.add_flags(parser)
    data_graphs.add_flags(parser)
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Runs the action; all but `init` load a config."""
    if flags.action == "init":
        return data_init.run(flags.table, out=flags.out, chosen=flags.column)
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
    usual = mosaic.Layout().per_fold
    number = usual if flags.per_fold is None else flags.per_fold
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
      config: `data.*`, `folds`, `seed`, `augment.*`.
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
        ACTIONS[action](config, out, path, layout or mosaic.Layout())
    return 0


def _build(config: ConfigDict, out: Out) -> None:
    if source(config) == "phantom":
        store = phantom_store(config, out)
    else:
        cohort = read_raw(config, out)
        _warn_of_replacement(config, cohort)
        write_store(config, cohort, build_origin(config), out)
        store = open_store(config.data.dir, config.data.name)
    _print_summary(store, out, store.bags)
    print(f"store: {store.folder}", file=out)


def _warn_of_replacement(config: ConfigDict, cohort: Cohort) -> None:
    """Warns if the store of this name holds other images than the new cohort."""
    with contextlib.suppress(ValueError):
        before = open_store(config.data.dir, config.data.name)
        images = metadata.from_cohort(cohort).images
        if set(before.images).isdisjoint(images):
            warnings.warn(
                f"the store '{config.data.name}' held another cohort, of {len(before)} "
                f"other images; runs on it still open its build {before.folder.name}. "
                "To keep both under names of their own, pass --config.data.name=NAME.",
                DataWarning,
                stacklevel=2,
            )


def _check(config: ConfigDict, out: Out) -> None:
    if source(config) == "phantom":
        raise ValueError("data check: the phantom is generated, there is no table")
    cohort = read_raw(config, out)
    table = metadata.from_cohort(cohort)
    alike = _check_pixels(config, cohort, table) if cohort.bags is None else []
    _check_folds(config, table)
    warn_about_quality(table, folds=config.folds, duplicates=alike)
    _print_summary(table, out, cohort.bags)
    _print_graphs(config, table, out)
    print("no errors", file=out)


def _check_pixels(
    config: ConfigDict, cohort: Cohort, table: metadata.Metadata
) -> list[tuple[int, int]]:
    """Warns about sizes; returns images that are nearly the same."""
    small, side = config.data.small, config.data.image_size
    views = (config.data.train_view, config.data.test_view)
    check_sizes(
        measure(cohort), table.images, small=small, image_size=side, views=views
    )
    files = [row.image for row in cohort.rows]
    thumbs = near_duplicates.thumbnails(files, threads=decoding_threads(config))
    return near_duplicates.near_duplicates(thumbs, table.patients)


def _print_graphs(config: ConfigDict, table: metadata.Metadata, out: Out) -> None:
    """Prints how many nuclei the store's graphs have, if they are of this table."""
    with contextlib.suppress(MissingDataError):
        built = open_store(config.data.dir, config.data.name)
        if built.table_hash == table.table_hash and folder.exists(built):
            print(data_graphs.summary(folder.open_folder(built)), file=out)


def _check_folds(config: ConfigDict, table: metadata.Metadata) -> None:
    """Raises what training would raise about the folds of this table."""
    if config.data.scheme in EXTERNAL_SCHEMES:
        table = dataclasses.replace(table, external_folds=external_folds(config, table))
    seed = data_seed(config)
    with warnings.catch_warnings(action="ignore"):  # `warn_about_quality` says it
        splits = make_splits(
            table, scheme=config.data.scheme, folds=config.folds, seed=seed
        )
    smallest = min(len(train) for train, _ in splits.folds)
    if smallest < config.get("batch_size", 1):
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {smallest} training "
            "regions of the smallest fold. Pass a smaller --config.batch_size."
        )


def _split(config: ConfigDict, out: Out) -> None:
    store = prepare(config, out=out)
    splits = make_splits(
        store,
        scheme=config.data.scheme,
        folds=config.folds,
        seed=data_seed(config),
    )
    path = Path(config.data.dir) / config.data.name / "splits.json"
    write_splits(path, splits, store)
    for k, (train, test) in enumerate(splits.folds):
        sides = []
        for name, rows in (("train", train), ("test", test)):
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


def _mosaic(config: ConfigDict, out: Out, folder: Path, layout: mosaic.Layout) -> None:
    if source(config) != "cohort":
        raise ValueError(
            f"data mosaic: data.name is {config.data.name!r}, expected 'cohort' and a "
            "table of images with masks. Pass --config=configs/cohort.py."
        )
    made = mosaic.write_mosaics(
        read_raw(config, out),
        folder,
        layout=layout,
        folds=config.folds,
        seed=config.seed,
        progress=progress_to("drawn", out),
    )
    table = metadata.from_cohort(made)
    _print_summary(table, out)
    print(
        f"table: {folder / 'table.csv'}\nuse: --config=configs/cohort.py "
        f"--config.data.table={folder / 'table.csv'} --config.data.scheme=fold "
        f"--config.folds={max(row.fold or 0 for row in made.rows) + 1} "
        "--config.data.biomarkers_per=region, and the same classes and biomarkers",
        file=out,
    )


def _print_summary(
    table: metadata.Metadata, out: Out, bags: BagIndex | None = None
) -> None:
    counts = np.bincount(table.grades, minlength=len(table.classes)).tolist()
    graded = ", ".join(f"{c} {n}" for c, n in zip(table.classes, counts, strict=True))
    kind = "images" if bags is None else "bags"
    print(
        f"{len(table)} {kind} of {len(set(table.patients))} patients: {graded}",
        file=out,
    )
    if bags is not None:
        least, middle, most = np.quantile(bags.counts, (0, 0.5, 1)).astype(int)
        layouts = sorted({entry.header.layout for entry in bags.entries})
        print(
            f"  patches: {least} to {most} in a bag, median {middle}; {bags.width} "
            f"features; layout {', '.join(layouts)}; the files are not copied",
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


Action = Callable[[ConfigDict, Out, Path | None, mosaic.Layout], None]
ACTIONS: dict[str, Action] = {
    "build": lambda config, out, *_: _build(config, out),
    "check": lambda config, out, *_: _check(config, out),
    "split": lambda config, out, *_: _split(config, out),
    "augment": lambda config, out, path, _: _augment(
        config, out, path or Path("augment.png")
    ),
    "phantom": lambda config, out, path, _: _phantom(
        config, out, path or Path("phantom.png")
    ),
    "mosaic": lambda config, out, path, layout: _mosaic(
        config, out, path or Path("mosaic"), layout
    ),
}
