"""Opens or builds the store that a config describes."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.data import external_splits, metadata
from fof_jax.data.cache import decoding_threads
from fof_jax.data.cohort import Cohort, check_images, read_cohort
from fof_jax.data.datasets import gbmlgg
from fof_jax.data.errors import MissingDataError, raise_errors
from fof_jax.data.image_sizes import check_sizes
from fof_jax.data.impute import fill_floats
from fof_jax.data.metadata import Folds, Metadata
from fof_jax.data.progress import Out, progress_to, warnings_to
from fof_jax.data.read_options import ReadOptions
from fof_jax.data.splits import EXTERNAL_SCHEMES
from fof_jax.data.store import Store, build_command, build_store, open_store

# Names of stores with a source of their own; any other is a cohort's.
NAMES = ("gbmlgg", "cohort", "phantom")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STAGING = ".drawing-"


def prepare(
    config: ConfigDict,
    *,
    out: Out | None = None,
    generate: bool = True,
    build: str | None = None,
) -> Store:
    """Returns the store that a run trains on, with the config's read options applied.

    The phantom is generated and built if it is missing or out of date; other stores
    must exist. Missing float markers are imputed. Warnings go to `out`.

    Args:
      config: `data.*` and, for the phantom, `seed` where `data.seed` is unset.
      out: stream for progress and warnings; stdout if None.
      generate: False to raise instead of generating the phantom.
      build: name of the build that a run recorded (`data_hash`); it is opened if it is
        there, also where another one has since been built. None: the current one.

    Returns:
      The store, with the classes, biomarkers and float markers of the config.

    Raises:
      MissingDataError: the store does not exist; if the raw files of gbmlgg are
        missing too, the message lists them.
      ValueError: the store has other classes, biomarkers or float markers; images
        smaller than `data.image_size` under `data.small='error'`; or a file of features
        that has changed since the build.
    """
    out = sys.stdout if out is None else out
    recorded = None if build is None else _open_recorded(config, build, out)
    if recorded is not None:
        store = recorded
    elif source(config) == "phantom":
        with warnings_to(out):
            store = phantom_store(config, out, generate=generate)
    else:
        store = _open_built(config)
    for field in ("classes", "biomarkers", "float_markers"):
        expected, actual = _labels(config, field), getattr(store, field)
        subset = field == "float_markers" and set(expected) <= set(actual)
        if not subset and expected != actual:
            raise ValueError(
                f"data.{field} is {expected}; the store '{config.data.name}' has "
                f"{actual}. Change the field, or build again: "
                f"{build_command(config.data.name)}"
            )
    omics = _labels(config, "omics")
    if omics and omics != store.omic_names:
        raise ValueError(
            f"data.omics names {len(omics)} columns; the store '{config.data.name}' "
            f"has {len(store.omic_names)} others. Change the field, or build again: "
            f"{build_command(config.data.name)}"
        )
    options = ReadOptions(
        small=config.data.small,
        stain=config.data.stain,
        train_view=config.data.train_view,
        test_view=config.data.test_view,
    )
    with warnings_to(out):
        if store.bags is not None:
            store.bags.require_all_unchanged()
        else:
            check_sizes(
                store.sizes,
                store.images,
                small=options.small,
                image_size=config.data.image_size,
                views=(options.train_view, options.test_view),
            )
        if config.data.scheme in EXTERNAL_SCHEMES:
            store = dataclasses.replace(
                store, external_folds=external_folds(config, store)
            )
        store = metadata.select_floats(store, _labels(config, "float_markers"))
        most = config.data.get("max_tokens")  # configs without bags do not have it
        store = dataclasses.replace(store, options=options, max_tokens=most)
        return fill_floats(store)


def external_folds(config: ConfigDict, store: Metadata) -> Folds | None:
    """Reads folds from `data.splits_file`; None without a file.

    A run that already has its splits.json does not need the file.
    """
    file, scheme = config.data.splits_file, config.data.scheme
    if scheme == "pickle":
        return external_splits.pickle_folds(store, file) if file else None
    path = Path(file or _raw(config) / external_splits.PNAS_FILE)
    return external_splits.pnas_folds(store, path) if file or path.exists() else None


def source(config: ConfigDict) -> str:
    """What the store `data.name` is built from: gbmlgg, cohort or phantom.

    Any other name is a cohort's, so that several cohorts can lie side by side.

    Raises:
      ValueError: a name that cannot be a folder's.
    """
    name = config.data.name
    if not _NAME.fullmatch(str(name)):
        raise ValueError(
            f"data.name is {name!r}; expected letters, digits, '.', '_' and '-', such "
            "as 'clinic_b', or gbmlgg or phantom. Pass another --config.data.name."
        )
    return name if name in NAMES else "cohort"


def data_seed(config: ConfigDict) -> int:
    """Seed of splits and phantom: `data.seed`, or that of the run."""
    seed = config.data.get("seed")  # configs of earlier runs do not have it
    return config.seed if seed is None else seed


def _labels(config: ConfigDict, field: str) -> tuple[str, ...]:
    # Configs of runs of version 0.1 have no data.omics.
    return tuple(str(label) for label in config.data.get(field, ()))


def _raw(config: ConfigDict) -> Path:
    return Path(config.data.raw_dir or Path(config.data.dir) / config.data.name)


def read_raw(config: ConfigDict, out: Out) -> Cohort:
    """Reads and validates the cohort of gbmlgg or of the user's table."""
    progress, threads = progress_to("checked", out), decoding_threads(config)
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
            "image, patient, grade and one per biomarker."
        )
    return read_cohort(
        config.data.table,
        classes=_labels(config, "classes"),
        biomarkers=_labels(config, "biomarkers"),
        float_markers=_labels(config, "float_markers"),
        omics=_labels(config, "omics"),
        columns=config.data.columns.to_dict() if "columns" in config.data else None,
        words=config.data.get("words", ()),
        ungraded=config.data.get("ungraded", "error"),
        biomarkers_per=config.data.biomarkers_per,
        patch_size=config.data.get("patch_size"),
        root=config.data.raw_dir or None,
        threads=threads,
        progress=progress,
    )


def write_store(config: ConfigDict, cohort: Cohort, origin: str, out: Out) -> Path:
    """Builds the store of a validated cohort in `data.dir`."""
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


def phantom_store(config: ConfigDict, out: Out, *, generate: bool = True) -> Store:
    """Opens the phantom's store; generates and builds it if its parameters changed."""
    # Imported lazily, because importing the generator precomputes shapes.
    phantom = importlib.import_module("fof_jax.data.datasets.phantom.writer")

    parameters = {
        "regions": config.data.regions,
        "image_size": config.data.image_size,
        "seed": data_seed(config),
    }
    labels: dict[str, Any] = {
        field: _labels(config, field)
        for field in ("classes", "biomarkers", "float_markers", "omics")
    }
    # Changes of the generator's code invalidate the store, too.
    sources = sorted(Path(str(phantom.__file__)).parent.glob("**/*.py"))
    code = b"".join(file.read_bytes() for file in sources)
    origin = json.dumps([parameters, labels, hashlib.sha256(code).hexdigest()])
    home = Path(config.data.dir) / "phantom"
    if (store := _current_phantom(config, origin)) is not None:
        return store
    if not generate:
        raise MissingDataError(
            f"{home} has no phantom with these parameters from this version. Generate "
            "it: python launch.py data build --config=configs/phantom.py, with the "
            "fields of the run; or set --config.data.dir."
        )
    with files.file_lock(home / ".drawing.lock"):
        if (store := _current_phantom(config, origin)) is not None:
            return store  # built by the previous holder of the lock
        for stale in home.glob(f"{_STAGING}*"):
            shutil.rmtree(stale)
        print(f"generating the phantom: {parameters}", file=out, flush=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=_STAGING) as folder:
            table = phantom.write_cohort(
                Path(folder),
                **parameters,
                progress=progress_to("generated", out),
                omics=bool(labels["omics"]),
                cores=decoding_threads(config),
            )
            cohort = read_cohort(table, **labels, progress=progress_to("checked", out))
            write_store(config, cohort, origin, out)
        return open_store(config.data.dir, "phantom")


def build_origin(config: ConfigDict) -> str:
    """Build provenance that a store records: the subset of gbmlgg."""
    return f"subset {config.data.subset}" if source(config) == "gbmlgg" else ""


def _open_recorded(config: ConfigDict, build: str, out: Out) -> Store | None:
    """Opens the build that a run recorded; None if it is no longer there."""
    try:
        store = open_store(config.data.dir, config.data.name, build=build)
    except MissingDataError:
        return None
    with contextlib.suppress(MissingDataError):
        current = open_store(config.data.dir, config.data.name).folder
        if current != store.folder:
            print(
                f"store: build {build}, which the run recorded; {current.name} has "
                f"been built since in {current.parent}",
                file=out,
            )
    return store


def _open_built(config: ConfigDict) -> Store:
    try:
        store = open_store(config.data.dir, config.data.name)
        if store.origin != build_origin(config):
            raise ValueError(
                f"data.subset is {config.data.subset!r}; the store at {store.folder} "
                f"was built as {store.origin!r}. Build again: python launch.py data "
                "build --config=configs/gbmlgg.py --config.data.subset="
                f"{config.data.subset}, or set the field back."
            )
        return store
    except MissingDataError:
        if config.data.name == "gbmlgg":
            # Lists missing raw files, which are needed first.
            gbmlgg.check_files(_raw(config))
        raise


def _current_phantom(config: ConfigDict, origin: str) -> Store | None:
    """Opens the phantom's store if it exists with these parameters."""
    try:
        store = open_store(config.data.dir, "phantom")
    except MissingDataError:
        return None
    return store if store.origin == origin else None
