"""Cross-validation: all folds of a config, and the table of their results."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fof_jax.data import prepare, splits, store, superpixels, validation
from fof_jax.data.progress import progress_to
from fof_jax.evaluation import localization, metrics, predictions, tables
from fof_jax.training import build, device_cache, multihost, preemption, stages
from fof_jax.training import workdir as run_folder
from fof_jax.training.fold import Rows


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
      fold.NonFiniteError: training diverged.
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
        chain = stages.build_stages(config, data)
        images = device_cache.open_images(
            config, data, [stage.setup.devices for stage in chain]
        )
        for stage in chain:
            count = stage.setup.method.inputs.superpixels
            superpixels.open_maps(data, count, progress_to("superpixels:", sys.stdout))
    fields = run_folder.identity(config, data)
    multihost.require_equal(fields | {"workdir": str(workdir.resolve())})

    with contextlib.ExitStack() as held:
        # --- Create the workdir and lock the folds ---
        with multihost.raise_on_all():
            if multihost.is_main_process():
                run_folder.create(config, data, folds, workdir, log)
                held.enter_context(run_folder.fold_locks(workdir, selected, log))
                if keep := getattr(log, "keep", None):  # of cli.terminal.Terminal
                    keep(workdir / run_folder.TERMINAL_FILE)
        log(_description(config, len(data), len(folds.folds), chain[-1].setup))

        # --- Folds ---
        stop = held.enter_context(preemption.signal_handlers())
        for number in selected:
            if code := multihost.all_max(stop.code):
                raise preemption.Stopped(code)
            folder = workdir / f"fold_{number}"
            if multihost.broadcast((folder / "predictions.csv").exists()):
                log(f"fold {number}: already finished")
                continue
            rows = Rows(*folds.folds[number])
            if folds.validation:
                rows = rows._replace(validation=folds.validation[number])
            stages.train_stages(chain, images, rows, number, folder, log, stop)

        # --- Results ---
        if not multihost.is_main_process():
            return {}
        with run_folder.shared_files_lock(workdir):  # the last job sees all folds
            return conclude(config, workdir, len(folds.folds), log)


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
    seed = prepare.data_seed(config)
    if path.exists():
        drawn = splits.read_splits(path, data)
    else:
        drawn = splits.make_splits(
            data, scheme=config.data.scheme, folds=config.folds, seed=seed
        )
    return validation.with_validation(
        drawn, data, fraction=config.validation, seed=seed
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
