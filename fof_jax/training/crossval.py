"""Cross-validation: all folds of a config, and the table of their results."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import cache, loader, metadata, prepare, splits, store
from fof_jax.evaluation import localization, metrics, predictions, tables
from fof_jax.methods import registry
from fof_jax.methods.base import Method
from fof_jax.training import (
    build,
    compilation,
    multihost,
    omics,
    preemption,
    train,
    weights,
)
from fof_jax.training import workdir as run_folder
from fof_jax.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of a fold: the teacher of a student, or the only one.

    Attributes:
      name: key of its trained variables in `frozen` of later stages; "" for the last,
        whose files are those of the fold itself.
      config: of the stage.
      setup: what the folds of this stage share.
    """

    name: str
    config: ConfigDict
    setup: build.Setup


def run(
    config: ConfigDict,
    data: store.Store,
    workdir: Path,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains and tests every fold (or `config.fold`), then writes results.json.

    A finished fold is not run again; an unfinished one resumes from its checkpoint.
    Several calls may train different folds of one workdir at the same time; each of
    them writes the results of what is finished by then.

    Args:
      config: resolved.
      data: the store to train on.
      workdir: directory of the run.
      log: prints a line.

    Returns:
      The results of `metrics.summarize` over the finished folds; {} in processes that
      do not write.

    Raises:
      ValueError: the workdir belongs to another configuration or table, or another
        process uses it; or the configuration does not fit the data.
      train.NonFiniteError: training diverged.
      preemption.Stopped: by a signal; the same call resumes from there.
    """
    # --- Validate before anything is written ---
    jax.config.update("jax_debug_nans", config.debug.nans)
    with multihost.raise_on_all():
        run_folder.require_same_run(config, data, workdir)
        folds = _splits(config, data, workdir)
        selected = _selected_folds(config.fold, len(folds.folds), workdir)
        smallest = min(len(rows) for rows, _ in folds.folds)
        if smallest < config.batch_size:
            raise ValueError(
                f"batch_size: {config.batch_size} is more than the {smallest} training "
                "regions of the smallest fold. Pass a smaller --config.batch_size."
            )
        stages = _stages(config, data)
        images = loader.open_cache(data, config.data.image_size, config.data.cache)
    fields = run_folder.identity(config, data)
    multihost.require_equal(fields | {"workdir": str(workdir.resolve())})

    with contextlib.ExitStack() as held:
        # --- Create the workdir and lock the folds ---
        with multihost.raise_on_all():
            if multihost.is_main_process():
                run_folder.create(config, data, folds, workdir, log)
                held.enter_context(run_folder.fold_locks(workdir, selected, log))
        compilation.use_cache(workdir / "compiled")
        log(_description(config, len(data), len(folds.folds), stages[-1].setup))

        # --- Folds ---
        stop = held.enter_context(preemption.signal_handlers())
        for number in selected:
            if code := multihost.all_max(stop.code):
                raise preemption.Stopped(code)
            folder = workdir / f"fold_{number}"
            if multihost.broadcast((folder / "predictions.csv").exists()):
                log(f"fold {number}: already finished")
                continue
            train_stages(stages, images, folds.folds[number], number, folder, log, stop)

        # --- Results ---
        if not multihost.is_main_process():
            return {}
        with run_folder.shared_files_lock(workdir):  # the last job sees all folds
            return conclude(config, workdir, len(folds.folds), log)


def train_stages(
    stages: Sequence[Stage],
    images: cache.ImageCache,
    rows: tuple[np.ndarray, np.ndarray],
    number: int,
    folder: Path,
    log: Callable[[str], None],
    stop: preemption.StopRequest,
) -> None:
    """Trains the stages of one fold in order; each sees those before it as constants.

    Args:
      rows: training and test rows of the fold.
      number: of the fold.
      folder: of the fold; a stage but the last writes into a folder of its name in it.
    """
    frozen: Params = {}
    for stage in stages:
        constants = omics.fold_constants(
            stage.setup.method.inputs, images.store, rows[0]
        )
        if frozen:  # memory banks of a student have a row per training record
            index = np.sort(rows[0]).astype(np.int32)
            grade = images.store.grades[index].astype(np.int32)
            constants |= {"labels": {"index": index, "grade": grade}}
        fold = train.Fold(
            config=stage.config,
            setup=stage.setup,
            cache=images,
            train_rows=rows[0],
            test_rows=rows[1],
            number=number,
            folder=folder / stage.name,
            frozen=frozen | constants,
            log=log,
        )
        if not multihost.broadcast((fold.folder / "predictions.csv").exists()):
            train.train_fold(fold, stop)
        if stage is not stages[-1]:
            frozen = frozen | {stage.name: weights.read(fold.folder)}


def conclude(
    config: ConfigDict, workdir: Path, folds: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Writes results.json and prints the tables of the finished folds."""
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
    run_folder.write_json(workdir / "results.json", results)
    start = config.init.checkpoint
    start = f"initialized from {Path(start).name}" if start else "from scratch"
    caption = f"{config.data.name}, {config.method} {start}"
    if len(finished) < folds:
        caption += f", {len(finished)} of {folds} folds finished"
    for unit, _ in metrics.units_with_results(results):
        for average in metrics.AVERAGES:
            # The paper's metrics are per region and micro-averaged.
            as_in_the_paper = (unit, average) == ("region", "micro")
            log(
                tables.format_table(
                    results,
                    unit=unit,
                    scheme=config.data.scheme,
                    caption=caption,
                    average=average,
                    paper_row=config.paper_row if as_in_the_paper else None,
                )
            )
            log("")
    if results["focus"] is not None:
        log(tables.format_localization(results["focus"], config.data.scheme) + "\n")
    for note in results["notes"]:
        log(f"note: {note}")
    return results


def trace_init(method: Method, image_size: int, omics: int) -> None:
    """Traces the method's initialization without computing it.

    Args:
      image_size: side of the images.
      omics: number of omics columns.

    Raises:
      ValueError: the method or its encoder refuses its options.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    vector = jax.ShapeDtypeStruct((1, omics), np.float32)
    batch = Batch(image=image, second_view=image, omics=vector if omics else None)
    jax.eval_shape(method.init, jax.random.key(0), batch, {})


def _stages(config: ConfigDict, data: store.Store) -> list[Stage]:
    """The stages of a config, in the order in which they are trained.

    Fields of `config.<stage>` replace those of the config in that stage.

    Raises:
      ValueError: a stage without fields, or one that does not fit the data.
    """
    names = tuple(config.stages) or ("",)
    stages: list[Stage] = []
    for name in names:
        own = registry.stage_config(config, name) if name else config
        setup = build.build(own, metadata.dataset_info(data))
        omics.require_inputs(setup.method.inputs, data, own.method)
        if not stages:  # a later stage is initialized from the ones before it
            trace_init(setup.method, own.data.image_size, len(data.omic_names))
        stages.append(Stage("" if name == names[-1] else name, own, setup))
    return stages


def _description(
    config: ConfigDict, regions: int, folds: int, setup: build.Setup
) -> str:
    processes = jax.process_count()
    return (
        f"{regions} regions, {folds} folds ({config.data.scheme} split), "
        f"method {config.method}, encoder {config.encoder}, "
        f"{len(setup.devices)} of {jax.device_count()} {jax.default_backend()} devices"
        + (f" in {processes} processes" if processes > 1 else "")
        + f", batch {config.batch_size}"
    )


def _splits(config: ConfigDict, data: store.Store, workdir: Path) -> splits.Splits:
    path = workdir / "splits.json"
    if path.exists():
        return splits.read_splits(path, data)
    return splits.make_splits(
        data,
        scheme=config.data.scheme,
        folds=config.folds,
        seed=prepare.data_seed(config),
    )


def _selected_folds(fold: int | None, folds: int, workdir: Path) -> Sequence[int]:
    if fold is None:
        return range(folds)
    if not 0 <= fold < folds:
        raise ValueError(
            f"Fold {fold} does not exist: {workdir / 'splits.json'} has folds "
            f"0-{folds - 1}. Pass --config.fold=0…{folds - 1}."
        )
    return [fold]
