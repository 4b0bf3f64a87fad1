"""All folds of a configuration, and the table of their results."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax import compilation, hosts, metrics, predictions, results_table, train
from fof_jax.data import loader, splits, store
from fof_jax.method import Method
from fof_jax.pretrained import start
from fof_jax.program import build_program, flat
from fof_jax.shapes import Batch

# Fields that may change between two runs on one workdir: they do not alter numbers.
FREE_FIELDS = (
    "attention",
    "cpu_devices",
    "data_cache",
    "data_dir",
    "data_raw_dir",
    "data_splits_file",
    "data_table",
    "data_threads",
    "data_workers",
    "debug_nans",
    "devices",
    "eval_batch_size",
    "eval_every",
    "fold",
    "log_every",
    "paper_row",
    "remat",
    "save_every",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def run(
    config: ConfigDict,
    data: store.Store,
    workdir: Path,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains and tests every fold (or `config.fold`), then writes results.json.

    A finished fold is not run again; an unfinished one goes on from its checkpoint.

    Args:
      config: resolved.
      data: the store to train on.
      workdir: the run's folder.
      say: prints a line.

    Returns:
      The results of `metrics.summarise`, over the folds that are finished; {} in
      processes that do not write.

    Raises:
      ValueError: the workdir belongs to another configuration or table, or the
        configuration does not fit the data.
      train.NonFiniteError: training diverged.
    """
    # --- Everything that can be refused, before anything is written ---
    jax.config.update("jax_debug_nans", config.debug.nans)
    with hosts.all_or_none():
        refuse_another(config, data, workdir)
        folds = _splits(config, data, workdir)
        wanted = _wanted(config.fold, len(folds.folds), workdir)
        smallest = min(len(rows) for rows, _ in folds.folds)
        if smallest < config.batch_size:
            raise ValueError(
                f"batch_size: {config.batch_size} is more than the {smallest} training "
                "regions of the smallest fold. Pass a smaller --config.batch_size."
            )
        program = build_program(config, data)
        try_out(program.method, config.data.image_size)
        reader = loader.open_reader(data, config.data.image_size, config.data.cache)
    hosts.agree(_fields(config, data) | {"workdir": str(workdir.resolve())})

    # --- The workdir and its files ---
    if hosts.writes():
        workdir.mkdir(parents=True, exist_ok=True)
        remember(config, data, workdir)
        if not (workdir / "splits.json").exists():
            splits.write_splits(workdir / "splits.json", folds, data)
    hosts.wait("workdir")
    compilation.use_cache(workdir / "compiled")
    processes = jax.process_count()
    say(
        f"{len(data)} regions, {len(folds.folds)} folds ({config.data.scheme} split), "
        f"method {config.method}, encoder {config.encoder}, "
        f"{len(program.devices)} of {jax.device_count()} "
        f"{jax.default_backend()} devices"
        + (f" in {processes} processes" if processes > 1 else "")
        + f", batch {config.batch_size}"
    )

    # --- Folds ---
    for fold in wanted:
        done = workdir / f"fold_{fold}" / "predictions.csv"
        if hosts.first_says(done.exists()):
            say(f"fold {fold}: finished before")
            continue
        train.train_fold(config, program, reader, folds, fold, workdir, say)

    # --- Results ---
    if not hosts.writes():
        return {}
    return conclude(config, workdir, len(folds.folds), say)


def conclude(
    config: ConfigDict, workdir: Path, folds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """results.json and the printed tables, from the folds that are finished."""
    paths = [workdir / f"fold_{k}" / "predictions.csv" for k in range(folds)]
    finished = [path for path in paths if path.exists()]
    joined = predictions.join([predictions.read_predictions(p) for p in finished])
    results = metrics.summarise(joined)
    results |= {
        "method": config.method,
        "init": str(start.asked(config.init.checkpoint) or "from scratch"),
        "scheme": config.data.scheme,
        "finished": f"{len(finished)} of {folds} folds",
    }
    write_json(workdir / "results.json", results)
    caption = f"{config.data.name}, {config.method}"
    if len(finished) < folds:
        caption += f", {len(finished)} of {folds} folds finished"
    for unit in ("region", "patient"):
        for average in metrics.AVERAGES:
            if results["units"][unit] is None:
                continue
            # The paper's figures are per region and micro-averaged.
            like_the_papers = (unit, average) == ("region", "micro")
            say(
                results_table.format_table(
                    results,
                    unit=unit,
                    scheme=config.data.scheme,
                    caption=caption,
                    average=average,
                    paper_row=config.paper_row if like_the_papers else None,
                )
            )
            say("")
    for note in results["notes"]:
        say(f"note: {note}")
    return results


def refuse_another(config: ConfigDict, data: store.Store, workdir: Path) -> None:
    """Refuses a workdir that another configuration or table has begun.

    Raises:
      ValueError: with the fields that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    fields = _fields(config, data)
    before = json.loads(path.read_text())["fields"]
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


def try_out(made: Method, image_size: int) -> None:
    """Traces the method's initialisation without computing it.

    Raises:
      ValueError: what the method or its encoder refuse.
    """
    shape = (1, image_size, image_size, 3)
    image = jax.ShapeDtypeStruct(shape, np.uint8)
    nothing = dict.fromkeys(
        ("grade", "biomarkers", "known", "floats", "index", "epoch", "valid")
    )
    jax.eval_shape(made.init, jax.random.key(0), Batch(image=image, **nothing))


def remember(config: ConfigDict, data: store.Store, workdir: Path) -> None:
    """Writes config.json, once: the configuration, and what the run was made with."""
    path = workdir / "config.json"
    if not path.exists():
        fields = _fields(config, data)
        known = {"config": config.to_dict(), "fields": fields, "made_with": _origin()}
        write_json(path, known)


def _fields(config: ConfigDict, data: store.Store) -> dict[str, Any]:
    """Every field by its flat name, as JSON gives it back, and the table's hash."""
    flattened = json.loads(json.dumps(flat(config.to_dict())))
    return flattened | {"table_hash": data.table_hash}


def write_json(path: Path, value: object) -> None:
    """Writes to a temporary name, then renames."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def _splits(config: ConfigDict, data: store.Store, workdir: Path) -> splits.Splits:
    path = workdir / "splits.json"
    if path.exists():
        return splits.read_splits(path, data)
    return splits.make_splits(
        data, scheme=config.data.scheme, folds=config.folds, seed=config.seed
    )


def _wanted(fold: int | None, folds: int, workdir: Path) -> Sequence[int]:
    if fold is None:
        return range(folds)
    if not 0 <= fold < folds:
        raise ValueError(
            f"Fold {fold} does not exist: {workdir / 'splits.json'} has folds "
            f"0-{folds - 1}. Pass --config.fold=0…{folds - 1}."
        )
    return [fold]


def _origin() -> dict[str, Any]:
    """Versions, commit and machine, for whoever asks later where numbers come from."""
    here = Path(__file__).resolve().parent.parent
    commit, changes = (
        _git(here, *words) for words in (("rev-parse", "HEAD"), ("status", "--short"))
    )
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": commit,
        "uncommitted_changes": None if changes is None else bool(changes),
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.device_count(),
    }


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
