"""From raw files to a store, its faults, its folds, and pictures of it.

python launch.py data build --config=configs/cohort.py --config.data.table=T.csv
python launch.py data check --config=configs/cohort.py --config.data.table=T.csv
python launch.py data split --config=configs/cohort.py
python launch.py data augment --config=configs/phantom.py --out=augment.png
python launch.py data phantom --config=configs/phantom.py --out=phantom.png
"""

import argparse
import hashlib
import importlib
import io
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.data import atomic, columns, gbmlgg
from fof_jax.data.cohort import Cohort, check_images, read_cohort
from fof_jax.data.faults import DataWarning, MissingDataError, raise_faults
from fof_jax.data.splits import leak_share, make_splits, write_splits
from fof_jax.data.store import Store, build_store, open_store

ACTIONS = ("build", "check", "split", "augment", "phantom")
NAMES = ("gbmlgg", "cohort", "phantom")
_DRAWING = ".drawing-"
Progress = Callable[[int, int], None]
Out = TextIO | io.TextIOBase  # a StringIO is the latter only


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The action, --config and --out."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "--out", type=Path, help="PNG that `augment` and `phantom` draw"
    )
    config_flag.describe(parser)


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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            actions[action]()
        finally:
            for warning in caught:
                if issubclass(warning.category, DataWarning):
                    print(f"warning: {warning.message}", file=out)
    return 0


def prepare(config: ConfigDict, *, out: Out | None = None) -> Store:
    """The store that a run trains on. The phantom is drawn and built if need be.

    Args:
      config: `data.*` and, for the phantom, `seed`.
      out: where progress goes; the terminal if None.

    Returns:
      The store, with the classes and biomarkers that the config names.

    Raises:
      MissingDataError: there is no store and it is not the phantom's; or the raw
        files of gbmlgg are missing too, and then what to get.
      ValueError: the store is of other classes, biomarkers or float markers.
    """
    out = sys.stdout if out is None else out
    if _name(config) == "phantom":
        store = _phantom(config, out)
    else:
        try:
            store = open_store(config.data.dir, config.data.name)
        except MissingDataError:
            if config.data.name == "gbmlgg":
                # Where the raw files are missing too, the message says what to get.
                gbmlgg.check_files(_raw(config))
            raise
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
    return store


def _name(config: ConfigDict) -> str:
    if config.data.name not in NAMES:
        raise ValueError(
            f"data.name={config.data.name!r}: expected one of {', '.join(NAMES)}"
        )
    return config.data.name


def _labels(config: ConfigDict, field: str) -> tuple[str, ...]:
    return tuple(str(label) for label in config.data[field])


def _raw(config: ConfigDict) -> Path:
    return Path(config.data.raw_dir or Path(config.data.dir) / config.data.name)


def _progress(verb: str, out: Out) -> Progress:
    """Prints a line with rate every few seconds, and a last one."""
    start = last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < of and now - last < 5:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = f", {(of - done) / rate:.0f} s left" if done < of else ""
        print(f"{verb} {done}/{of} images, {rate:.0f}/s{left}", file=out, flush=True)

    return tell


def _read(config: ConfigDict, out: Out) -> Cohort:
    """The checked cohort of gbmlgg or of the user's table."""
    progress, threads = _progress("checked", out), max(config.data.threads, 1)
    if _name(config) == "gbmlgg":
        subset = config.data.get("subset", "molecular")
        cohort = gbmlgg.make_cohort(_raw(config), subset=subset)
        raise_faults(
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


def _build(config: ConfigDict, out: Out) -> None:
    if _name(config) == "phantom":
        store = _phantom(config, out)
    else:
        cohort = _read(config, out)
        _store(config, cohort, "", out)
        store = open_store(config.data.dir, config.data.name)
    _summary(store, out)
    print(f"store: {store.folder}", file=out)


def _check(config: ConfigDict, out: Out) -> None:
    if _name(config) == "phantom":
        raise ValueError("data check: the phantom is drawn, there is no table to check")
    cohort = _read(config, out)
    _summary(columns.from_cohort(cohort), out)
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
    from fof_jax.data.augment import contact_sheet
    from fof_jax.data.augment_spec import Augmentation

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
    phantom = importlib.import_module("fof_jax.data.phantom")
    phantom.contact_sheet(picture, image_size=config.data.image_size, seed=config.seed)
    print(f"picture: {picture}", file=out)


def _summary(table: columns.Columns, out: Out) -> None:
    counts = np.bincount(table.grades, minlength=len(table.classes)).tolist()
    graded = ", ".join(f"{c} {n}" for c, n in zip(table.classes, counts, strict=True))
    print(
        f"{len(table)} images of {len(set(table.patients))} patients: {graded}",
        file=out,
    )
    for name, known in zip(table.biomarkers, table.known.T, strict=True):
        print(f"  {name}: known for {known.sum()} of {len(table)}", file=out)


def _store(config: ConfigDict, cohort: Cohort, origin: str, out: Out) -> Path:
    return build_store(
        cohort,
        directory=config.data.dir,
        name=config.data.name,
        small=config.data.small,
        image_size=config.data.image_size,
        origin=origin,
        progress=_progress("stored", out),
    )


def _phantom(config: ConfigDict, out: Out) -> Store:
    """Opens the phantom's store; draws and builds it if its parameters changed."""
    # Its generator draws thousands of shapes: imported only where it is asked for.
    phantom = importlib.import_module("fof_jax.data.phantom")

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
    sources = [drawn_by, *sorted((drawn_by.parent / "tissue").glob("**/*.py"))]
    code = b"".join(source.read_bytes() for source in sources)
    origin = json.dumps([wanted, labels, hashlib.sha256(code).hexdigest()])
    home = Path(config.data.dir) / "phantom"
    with atomic.locked(home / ".drawing.lock"):
        try:
            store = open_store(config.data.dir, "phantom")
            if store.origin == origin and store.small == config.data.small:
                return store
        except MissingDataError:
            pass
        for stale in home.glob(f"{_DRAWING}*"):
            shutil.rmtree(stale)
        print(f"drawing the phantom: {wanted}", file=out, flush=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=_DRAWING) as folder:
            drawn = _progress("drew", out)
            table = phantom.write_cohort(Path(folder), **wanted, progress=drawn)
            cohort = read_cohort(table, **labels, progress=_progress("checked", out))
            _store(config, cohort, origin, out)
        return open_store(config.data.dir, "phantom")
