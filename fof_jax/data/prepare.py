"""The store that a configuration describes: opened, or made from what lies there."""

import dataclasses
import hashlib
import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.data import external_splits
from fof_jax.data.cohort import Cohort, check_images, read_cohort
from fof_jax.data.datasets import gbmlgg
from fof_jax.data.errors import MissingDataError, raise_errors
from fof_jax.data.image_sizes import check_sizes
from fof_jax.data.impute import fill_floats
from fof_jax.data.metadata import Folds
from fof_jax.data.progress import Out, progress_to, warnings_to
from fof_jax.data.read_options import apply_read_options
from fof_jax.data.splits import EXTERNAL_SCHEMES
from fof_jax.data.store import Store, build_store, open_store

NAMES = ("gbmlgg", "cohort", "phantom")
_DRAWING = ".drawing-"


def prepare(config: ConfigDict, *, out: Out | None = None, draw: bool = True) -> Store:
    """The store that a run trains on. The phantom is drawn and built if need be.

    Args:
      config: `data.*` and, for the phantom, `seed`.
      out: where progress goes; the terminal if None.
      draw: False to raise where the phantom would have to be drawn.

    Returns:
      The store, with the classes, biomarkers and float markers that the config names,
      set to read small images as `data.small` says, float markers without gaps. Sizes
      that differ and gaps that were filled are told on `out`.

    Raises:
      MissingDataError: there is no store and it is not the phantom's; or the raw
        files of gbmlgg are missing too, and then what to get.
      ValueError: the store is of other classes, biomarkers or float markers; it has
        images smaller than `data.image_size` under `data.small='error'`.
    """
    out = sys.stdout if out is None else out
    if source(config) == "phantom":
        with warnings_to(out):
            store = phantom_store(config, out, draw=draw)
    else:
        store = _open_built(config)
    for field in ("classes", "biomarkers", "float_markers"):
        wanted, found = _labels(config, field), getattr(store, field)
        fits = set(wanted) <= set(found) if field == "float_markers" else (
            wanted == found
        )  # fmt: skip
        if not fits:
            raise ValueError(
                f"data.{field} is {wanted}; the store '{config.data.name}' has "
                f"{found}. Change the field, or build again: python launch.py data "
                f"build --config=configs/{config.data.name}.py"
            )
    small, side = config.data.small, config.data.image_size
    with warnings_to(out):
        views = (config.data.train_view, config.data.test_view)
        check_sizes(
            store.sizes, store.images, small=small, image_size=side, views=views
        )
        if config.data.scheme in EXTERNAL_SCHEMES:
            store = dataclasses.replace(
                store, external_folds=_external_folds(config, store)
            )
        asked = apply_read_options(
            store,
            small=small,
            float_markers=_labels(config, "float_markers"),
            stain=config.data.stain,
            train_view=config.data.train_view,
            test_view=config.data.test_view,
            balanced=config.data.balanced,
        )
        return fill_floats(asked)


def _external_folds(config: ConfigDict, store: Store) -> Folds | None:
    """Folds from `data.splits_file`; None where no file is named and none is there.

    A run that has its splits.json does not need the file any more.
    """
    named, scheme = config.data.splits_file, config.data.scheme
    if scheme == "pickle":
        return external_splits.pickle_folds(store, named) if named else None
    path = Path(named or _raw(config) / external_splits.PNAS_FILE)
    return external_splits.pnas_folds(store, path) if named or path.exists() else None


def source(config: ConfigDict) -> str:
    """`data.name`: gbmlgg, cohort or phantom.

    Raises:
      ValueError: it is none of them.
    """
    if config.data.name not in NAMES:
        raise ValueError(
            f"data.name={config.data.name!r}: expected one of {', '.join(NAMES)}"
        )
    return config.data.name


def _labels(config: ConfigDict, field: str) -> tuple[str, ...]:
    return tuple(str(label) for label in config.data[field])


def _raw(config: ConfigDict) -> Path:
    return Path(config.data.raw_dir or Path(config.data.dir) / config.data.name)


def read_raw(config: ConfigDict, out: Out) -> Cohort:
    """The checked cohort of gbmlgg or of the user's table."""
    progress, threads = progress_to("checked", out), max(config.data.threads, 1)
    if source(config) == "gbmlgg":
        subset = config.data.subset
        cohort = gbmlgg.make_cohort(_raw(config), subset=subset)
        raise_errors(
            _raw(config), check_images(cohort, threads=threads, progress=progress)
        )
        return cohort
    if not config.data.table:
        raise ValueError(
            "data.table is not set: pass --config.data.table=TABLE.csv, with columns "
            "image, patient, grade and one a biomarker."
        )
    return read_cohort(
        config.data.table,
        classes=_labels(config, "classes"),
        biomarkers=_labels(config, "biomarkers"),
        float_markers=_labels(config, "float_markers"),
        root=config.data.raw_dir or None,
        threads=threads,
        progress=progress,
    )


def write_store(config: ConfigDict, cohort: Cohort, origin: str, out: Out) -> Path:
    """Builds the store of a checked cohort under `data.dir`."""
    return build_store(
        cohort,
        directory=config.data.dir,
        name=config.data.name,
        small=config.data.small,
        image_size=config.data.image_size,
        views=(config.data.train_view, config.data.test_view),
        origin=origin,
        progress=progress_to("stored", out),
    )


def phantom_store(config: ConfigDict, out: Out, *, draw: bool = True) -> Store:
    """Opens the phantom's store; draws and builds it if its parameters changed."""
    # Its generator draws thousands of shapes: imported only where it is asked for.
    phantom = importlib.import_module("fof_jax.data.datasets.phantom.cohort")

    wanted = {
        "regions": config.data.regions,
        "image_size": config.data.image_size,
        "seed": config.seed,
    }
    labels: dict[str, Any] = {
        field: _labels(config, field)
        for field in ("classes", "biomarkers", "float_markers")
    }
    # Drawn again also when the code that draws it has changed.
    drawn_by = Path(str(phantom.__file__))
    sources = sorted(drawn_by.parent.glob("**/*.py"))
    code = b"".join(file.read_bytes() for file in sources)
    origin = json.dumps([wanted, labels, hashlib.sha256(code).hexdigest()])
    home = Path(config.data.dir) / "phantom"
    if (store := _drawn(config, origin)) is not None:
        return store
    if not draw:
        raise MissingDataError(
            f"{home} holds no phantom of this configuration, drawn by this version. "
            "Draw it: python launch.py data build --config=configs/phantom.py, with "
            "the fields of the run; or say where it is."
        )
    with files.file_lock(home / ".drawing.lock"):
        if (store := _drawn(config, origin)) is not None:
            return store  # by the process that held the lock
        for stale in home.glob(f"{_DRAWING}*"):
            shutil.rmtree(stale)
        print(f"drawing the phantom: {wanted}", file=out, flush=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=_DRAWING) as folder:
            drawn = progress_to("drew", out)
            table = phantom.write_cohort(Path(folder), **wanted, progress=drawn)
            cohort = read_cohort(table, **labels, progress=progress_to("checked", out))
            write_store(config, cohort, origin, out)
        return open_store(config.data.dir, "phantom")


def subset_of(config: ConfigDict) -> str:
    """What a store is asked to remember of its making: the subset of gbmlgg."""
    return f"subset {config.data.subset}" if source(config) == "gbmlgg" else ""


def _open_built(config: ConfigDict) -> Store:
    try:
        store = open_store(config.data.dir, config.data.name)
        if store.origin != subset_of(config):
            raise ValueError(
                f"data.subset is {config.data.subset!r}; the store at {store.folder} "
                f"was built as {store.origin!r}. Build again: python launch.py data "
                "build --config=configs/gbmlgg.py --config.data.subset="
                f"{config.data.subset}, or set the field back."
            )
        return store
    except MissingDataError:
        if config.data.name == "gbmlgg":
            # Where the raw files are missing too, the message says what to get.
            gbmlgg.check_files(_raw(config))
        raise


def _drawn(config: ConfigDict, origin: str) -> Store | None:
    """The phantom's store, if it is there and of these parameters."""
    try:
        store = open_store(config.data.dir, "phantom")
    except MissingDataError:
        return None
    return store if store.origin == origin else None
