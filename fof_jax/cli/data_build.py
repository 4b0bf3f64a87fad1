"""The actions `build` and `check` of `data`: validate a cohort, and write its store."""

import contextlib
import dataclasses
import warnings

import numpy as np
from ml_collections import ConfigDict

from fof_jax.cli import data_graphs
from fof_jax.data import metadata, near_duplicates
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
    read_raw,
    source,
    write_store,
)
from fof_jax.data.progress import Out
from fof_jax.data.quality import warn_about_quality
from fof_jax.data.splits import EXTERNAL_SCHEMES, make_splits
from fof_jax.data.store import open_store
from fof_jax.data.validation import with_validation


def build(config: ConfigDict, out: Out) -> None:
    """Checks everything, then writes the store."""
    if source(config) == "phantom":
        store = phantom_store(config, out)
    else:
        cohort = read_raw(config, out)
        _warn_of_replacement(config, cohort)
        write_store(config, cohort, build_origin(config), out)
        store = open_store(config.data.dir, config.data.name)
    print_summary(store, out, store.bags)
    print(f"store: {store.folder}", file=out)


def check(config: ConfigDict, out: Out) -> None:
    """Lists all errors and warnings; writes nothing."""
    if source(config) == "phantom":
        raise ValueError("data check: the phantom is generated, there is no table")
    cohort = read_raw(config, out)
    table = metadata.from_cohort(cohort)
    alike = _check_pixels(config, cohort, table) if cohort.bags is None else []
    _check_folds(config, table)
    warn_about_quality(table, folds=config.folds, duplicates=alike)
    print_summary(table, out, cohort.bags)
    _print_graphs(config, table, out)
    print("no errors", file=out)


def print_summary(
    table: metadata.Metadata, out: Out, bags: BagIndex | None = None
) -> None:
    """Prints counts of images or bags, patients, grades, biomarkers and omics."""
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
    fraction = config.get("validation", 0.0)
    splits = with_validation(splits, table, fraction=fraction, seed=seed)
    smallest = min(len(train) for train, _ in splits.folds)
    if smallest < config.get("batch_size", 1):
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {smallest} training "
            "regions of the smallest fold. Pass a smaller --config.batch_size."
        )
