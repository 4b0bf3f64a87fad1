"""The action `mosaic` of `data`: a cohort whose grade few tiles of an image decide."""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax.cli import data_build
from fof_jax.data import metadata, mosaic
from fof_jax.data.prepare import read_raw, source
from fof_jax.data.progress import Out, progress_to

USUAL = mosaic.Layout()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --grid and --tile."""
    for name, meaning in (
        ("grid", "tiles per side"),
        ("tile", "side of a tile in pixels"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(USUAL, name),
            help=f"`mosaic`: {meaning} (default: %(default)s)",
        )


def run(config: ConfigDict, out: Out, folder: Path, layout: mosaic.Layout) -> None:
    """Writes the images and their table into a folder."""
    if source(config) != "cohort":
        raise ValueError(
            f"data mosaic: data.name is {config.data.name!r}, expected 'cohort' and a "
            "table of images with masks. Pass --config=configs/cohort.py."
        )
    cohort = mosaic.write_mosaics(
        read_raw(config, out),
        folder,
        layout=layout,
        folds=config.folds,
        seed=config.seed,
        progress=progress_to("drawn", out),
    )
    table = metadata.from_cohort(cohort)
    data_build.print_summary(table, out)
    print(
        f"table: {folder / 'table.csv'}\nuse: --config=configs/cohort.py "
        f"--config.data.table={folder / 'table.csv'} --config.data.scheme=fold "
        f"--config.folds={max(row.fold or 0 for row in cohort.rows) + 1} "
        "--config.data.biomarkers_per=region, and the same classes and biomarkers",
        file=out,
    )
