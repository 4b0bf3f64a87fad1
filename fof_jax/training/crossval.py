"""All folds of a configuration, and the table of their results."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import loader, splits, store
from fof_jax.evaluation import localization, metrics, predictions, tables
from fof_jax.methods.base import Method
from fof_jax.training import compilation, multihost, preemption, train
from fof_jax.training import workdir as training_workdir
from fof_jax.training.build import build_program
from fof_jax.types import Batch


def run(
    config: ConfigDict,
    data: store.Store,
    workdir: Path,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains and tests every fold (or `config.fold`), then writes results.json.

    A finished fold is not run again; an unfinished one goes on from its checkpoint.
    Several calls may train different folds of one workdir at the same time; each of
    them writes the results of what is finished by then.

    Args:
      config: resolved.
      data: the store to train on.
      workdir: the run's folder.
      say: prints a line.

    Returns:
      The results of `metrics.summarize`, over the folds that are finished; {} in
      processes that do not write.

    Raises:
      ValueError: the workdir belongs to another configuration or table, or another
        process works in it; or the configuration does not fit the data.
      train.NonFiniteError: training diverged.
      stopping.Stopped: a signal asked for it; the same call goes on from there.
    """
    # --- Everything that can be refused, before anything is written ---
    jax.config.update("jax_debug_nans", config.debug.nans)
    with multihost.all_or_none():
        training_workdir.refuse_another(config, data, workdir)
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
    fields = training_workdir.identity(config, data)
    multihost.agree(fields | {"workdir": str(workdir.resolve())})

    with contextlib.ExitStack() as held:
        # --- The workdir: its files, and nobody else in these folds ---
        with multihost.all_or_none():
            if multihost.writes():
                training_workdir.begin(config, data, folds, workdir, say)
                held.enter_context(training_workdir.holding(workdir, wanted, say))
        compilation.use_cache(workdir / "compiled")
        processes = jax.process_count()
        say(
            f"{len(data)} regions, {len(folds.folds)} folds "
            f"({config.data.scheme} split), "
            f"method {config.method}, encoder {config.encoder}, "
            f"{len(program.devices)} of {jax.device_count()} "
            f"{jax.default_backend()} devices"
            + (f" in {processes} processes" if processes > 1 else "")
            + f", batch {config.batch_size}"
        )

        # --- Folds ---
        stop = held.enter_context(preemption.listening())
        for fold in wanted:
            if code := multihost.all_say(stop.code):
                raise preemption.Stopped(code)
            done = workdir / f"fold_{fold}" / "predictions.csv"
            if multihost.first_says(done.exists()):
                say(f"fold {fold}: finished before")
                continue
            train.train_fold(config, program, reader, folds, fold, workdir, say, stop)

        # --- Results ---
        if not multihost.writes():
            return {}
        with training_workdir.alone(workdir):  # the last of several jobs sees all folds
            return conclude(config, workdir, len(folds.folds), say)


def conclude(
    config: ConfigDict, workdir: Path, folds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """results.json and the printed tables, from the folds that are finished."""
    paths = [workdir / f"fold_{k}" / "predictions.csv" for k in range(folds)]
    finished = [path for path in paths if path.exists()]
    joined = predictions.join([predictions.read_predictions(p) for p in finished])
    results = metrics.summarize(joined)
    results |= {
        "method": config.method,
        "init": config.init.checkpoint or "from scratch",
        "scheme": config.data.scheme,
        "finished": f"{len(finished)} of {folds} folds",
        "focus": localization.summarize(localization.read_next_to(finished)),
    }
    training_workdir.write_json(workdir / "results.json", results)
    begun = config.init.checkpoint
    begun = f"begun with {Path(begun).name}" if begun else "from scratch"
    caption = f"{config.data.name}, {config.method} {begun}"
    if len(finished) < folds:
        caption += f", {len(finished)} of {folds} folds finished"
    for unit in ("region", "patient"):
        for average in metrics.AVERAGES:
            if results["units"][unit] is None:
                continue
            # The paper's figures are per region and micro-averaged.
            like_the_papers = (unit, average) == ("region", "micro")
            say(
                tables.format_table(
                    results,
                    unit=unit,
                    scheme=config.data.scheme,
                    caption=caption,
                    average=average,
                    paper_row=config.paper_row if like_the_papers else None,
                )
            )
            say("")
    if results["focus"] is not None:
        say(tables.format_localization(results["focus"], config.data.scheme) + "\n")
    for note in results["notes"]:
        say(f"note: {note}")
    return results


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
