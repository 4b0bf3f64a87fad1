"""Run directory: config, provenance, locks.

config.json is its first file. It holds the configuration, and by which code, on which
machine and from which data the results were computed.
"""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.data import splits, store, training_data
from fof_jax.data.graphs.folder import GraphFolder, open_folder
from fof_jax.training import cell_graphs
from fof_jax.training.build import flatten_fields, method_of
from fof_jax.training.run_fields import ABSENT_FIELDS, FREE_FIELDS
from fof_jax.types import Params

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
SPLITS_FILE = "splits.json"
TERMINAL_FILE = "terminal.txt"  # lines of all commands on this workdir
_CONFIG, _LOCKS = "config.json", ".locks"
_OURS = (SPLITS_FILE, "results.json")
MODEL_FILE = "model.json"  # in a fold's folder: metadata to rebuild the model


def require_same_run(config: ConfigDict, data: store.Store, workdir: Path) -> None:
    """Checks that a workdir is new, or belongs to this configuration and data.

    Raises:
      ValueError: it holds other files, or another run; then with the fields that
        differ.
    """
    path = workdir / _CONFIG
    if not path.exists():
        strange = _strange(workdir, Path(config.data.dir))
        if strange:
            raise ValueError(
                f"workdir: {workdir} is not the folder of a run: it has no {_CONFIG}, "
                f"but {', '.join(strange[:5])}. Pass a new or empty --workdir."
            )
        return
    before = ABSENT_FIELDS | read_config(workdir)["fields"]
    fields = ABSENT_FIELDS | identity(config, data)
    changed = [
        f"  {name}: {before.get(name)!r} there, {fields.get(name)!r} now"
        for name in sorted(set(before) | set(fields))
        if name not in FREE_FIELDS and before.get(name) != fields.get(name)
    ]
    if changed:
        raise ValueError(
            f"workdir: {workdir} was begun with another configuration:\n"
            + "\n".join(changed)
            + "\nGo back to those values, or pass a new --workdir."
        )


def create(
    config: ConfigDict,
    data: store.Store,
    folds: splits.Splits,
    workdir: Path,
    log: Callable[[str], None],
) -> None:
    """Writes config.json and splits.json where they are not there yet.

    Jobs of several folds may begin at one moment: the first one writes.

    Raises:
      ValueError: as `require_same_run`, if another job has just begun something else.
    """
    with shared_files_lock(workdir):
        require_same_run(config, data, workdir)
        made_with = provenance(data)
        if (workdir / _CONFIG).exists():
            for line in version_differences(
                read_config(workdir)["made_with"], made_with
            ):
                log(f"warning: {line}")
        else:
            fields = identity(config, data)
            known = {"config": config.to_dict(), "fields": fields}
            write_json(workdir / _CONFIG, known | {"made_with": made_with})
        path = workdir / SPLITS_FILE
        # Splits that were given get the validation rows that were drawn.
        if not path.exists() or (
            folds.validation and not splits.read_splits(path, data).validation
        ):
            splits.write_splits(path, folds, data)


def read_config(workdir: Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
      ValueError: it is not one.
    """
    path = workdir / _CONFIG
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known["fields"], dict) and isinstance(known["made_with"], dict):
            return known
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"workdir: {path} is not what a run writes, or damaged. Bring back a copy, or "
        "pass a new --workdir."
    )


def recorded_build(workdir: Path) -> str | None:
    """Name of the build of the store that a run was begun on; None for a new run."""
    if not (workdir / _CONFIG).exists():
        return None
    return read_config(workdir)["fields"].get("data_hash")


@contextlib.contextmanager
def shared_files_lock(workdir: Path) -> Iterator[None]:
    """Locks the files that all folds share; other processes wait."""
    with files.file_lock(workdir / _LOCKS / "shared"):
        yield


@contextlib.contextmanager
def fold_locks(
    workdir: Path, folds: Sequence[int], log: Callable[[str], None]
) -> Iterator[None]:
    """Holds folds: no other process may train them meanwhile.

    Raises:
      ValueError: another does, and which.
    """
    with contextlib.ExitStack() as held:
        for fold in folds:
            path = workdir / _LOCKS / f"fold_{fold}"
            held.enter_context(
                files.exclusive_lock(path, f"workdir: fold {fold} of {workdir}", log)
            )
        yield


def identity(config: ConfigDict, data: store.Store) -> dict[str, Any]:
    """Every field by its flat name, as JSON gives it back, and hashes of the data.

    `table_hash` is of the table's columns, `data_hash` of the images' bytes too;
    `graph_hash` is of the cell graphs, for a method that reads them.
    """
    flattened = json.loads(json.dumps(flatten_fields(config.to_dict())))
    hashes = {"table_hash": data.table_hash, "data_hash": data.folder.name}
    if cell_graphs.reads(method_of(config).inputs):
        hashes["graph_hash"] = open_folder(data).digest
    return flattened | hashes


def write_json(path: Path, value: object) -> None:
    """Writes a file that is there whole or not at all."""
    files.write_text(path, json.dumps(value, indent=2) + "\n")


def _strange(workdir: Path, stores: Path) -> list[str]:
    """What no beginning run has: folders, and files that come after config.json.

    Logs may lie there, the stores, and folds that were given; hidden is what a killed
    beginning leaves.
    """
    if not workdir.exists():
        return []
    stores = stores.resolve()
    return sorted(
        path.name
        for path in workdir.iterdir()
        if (path.is_dir() or path.name in set(_OURS) - {"splits.json"})
        and not path.name.startswith(".")
        and path.resolve() not in (stores, *stores.parents)
    )


def version_differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Describes version differences since the run started."""
    there = {"python": before.get("python"), **before.get("packages", {})}
    here = {"python": now["python"], **now["packages"]}
    differing = [
        f"{name} {there[name]} then, {here[name]} now"
        for name in here
        if there.get(name) not in (None, here[name])
    ]
    for name in ("platform", "device", "commit"):
        if before.get(name) not in (None, now[name]):
            differing.append(f"{name} {before[name]} then, {now[name]} now")
    if differing:
        yield (
            f"this run was begun with {', '.join(differing)}; its last digits may "
            "differ from a run in one piece"
        )


def provenance(data: store.Store) -> dict[str, Any]:
    """Provenance of the results: versions, commit and machine."""
    commit, changes = code_version()
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": commit,
        "uncommitted_changes": changes,
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "store": str(data.folder),
    }


def code_version() -> tuple[str | None, bool | None]:
    """Commit of this code, and whether files were changed since; None if not known."""
    here = Path(__file__).resolve().parents[2]
    changes = _git(here, "status", "--short")
    return _git(here, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(folder: Path, *words: str) -> str | None:
    if not (folder / ".git").exists():  # installed as a wheel
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_model_file(
    folder: Path,
    config: ConfigDict,
    data: store.Store,
    train_rows: np.ndarray,
    frozen: Params,
    graphs: GraphFolder | None = None,
) -> None:
    """Writes model.json, which makes a fold's folder self-contained.

    Args:
      folder: of the fold.
      config: of the run.
      data: what it is trained on.
      train_rows: positions of the fold's training images.
      frozen: constants of the fold, of which the statistics of omics and of the
        graphs' columns are kept.
      graphs: those of the data, for a method that reads them; how they were made is
        kept, so that graphs of other images can be made alike.
    """
    document: dict[str, Any] = {"config": config.to_dict()}
    if data.bags is None:
        document["sides"] = [int(data.sizes.min()), int(data.sizes.max())]
        document["training"] = training_data.measure(data, train_rows).to_json()
    else:
        document["bags"] = {"features": data.bags.width}
        for name, values in frozen.get("features", {}).items():
            document["bags"][name] = np.asarray(values).tolist()
    if "omics" in frozen:
        statistics = {k: np.asarray(v).tolist() for k, v in frozen["omics"].items()}
        document["omics"] = {"names": list(data.omic_names), **statistics}
    if graphs is not None:
        columns = {k: np.asarray(v).tolist() for k, v in frozen["columns"].items()}
        document["graphs"] = {
            "names": list(graphs.columns), "origin": graphs.origin, **columns
        }  # fmt: skip
    files.write_text(folder / MODEL_FILE, json.dumps(document, indent=2) + "\n")
