"""`data bags`: bags of tiles of which a few decide the grade, from features of images.

python launch.py features --checkpoint=weights/dinov2-s14 --images=T.csv --tile=112 \
    --out=FEATURES
python launch.py data bags --config=configs/cohort.py --config.data.table=T.csv \
    --features=FEATURES --share=0.03 --out=BAGS
"""

import argparse
import sys
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax.data import cache
from fof_jax.data.bags import composed
from fof_jax.data.prepare import read_raw, source
from fof_jax.data.progress import Out, progress_to, warnings_to

USUAL = composed.Composition()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `bags` to those of `data`."""
    parser.add_argument(
        "--features",
        type=Path,
        help="`bags`: folder that `features` wrote for the images of the table",
    )
    for name, kind, meaning in (
        ("share", float, "fraction of a bag's tiles that decide its grade"),
        ("fewest", int, "tiles of the smallest bag"),
        ("most", int, "tiles of the largest bag"),
    ):
        parser.add_argument(
            f"--{name}",
            type=kind,
            default=getattr(USUAL, name),
            help=f"`bags`: {meaning} (default: %(default)s)",
        )


def run(config: ConfigDict, flags: argparse.Namespace, out: Out | None = None) -> int:
    """Writes the bags.

    Args:
      config: `data.*` of the cohort of images, `folds`, `seed`.
      flags: of `data`.
      out: text output; None: the terminal.

    Returns:
      0.

    Raises:
      ValueError: see `composed.write_bags`; or no --features.
    """
    out = sys.stdout if out is None else out
    if flags.features is None:
        raise ValueError(
            "data bags: --features is not set. Pass the folder that `features` wrote "
            "for the images of --config.data.table."
        )
    if source(config) != "cohort":
        raise ValueError(
            f"data bags: data.name is {config.data.name!r}, expected a cohort and a "
            "table of images with masks. Pass --config=configs/cohort.py."
        )
    composition = composed.Composition(
        share=flags.share,
        fewest=flags.fewest,
        most=flags.most,
        per_fold=USUAL.per_fold if flags.per_fold is None else flags.per_fold,
    )
    folder = flags.out or Path("bags")
    with warnings_to(out):
        cohort, shares = composed.write_bags(
            read_raw(config, out),
            flags.features,
            folder,
            composition=composition,
            folds=config.folds,
            seed=config.seed,
            threads=cache.decoding_threads(config),
            progress=progress_to("written", out),
        )
    decided = shares[shares > 0]
    table = folder / "table.csv"
    print(
        f"{len(cohort.rows)} bags of {composition.fewest} to {composition.most} tiles; "
        f"{100 * decided.min():.1f} to {100 * decided.max():.1f}% of the tiles decide "
        f"(mean {100 * decided.mean():.1f}%), none in grade {cohort.classes[0]}\n"
        f"table: {table}\nuse: --config.data.table={table} --config.data.scheme=fold "
        f"--config.folds={max(row.fold or 0 for row in cohort.rows) + 1}, and the same "
        "classes and biomarkers",
        file=out,
    )
    return 0
