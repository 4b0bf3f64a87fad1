"""Training of one fold: initialize or restore, steps, evaluation, localization."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fof_jax.data import loader, sampling, superpixels
from fof_jax.data.cache import decoding_threads
from fof_jax.evaluation import predictions
from fof_jax.methods import encoder
from fof_jax.training import (
    cell_graphs,
    checkpoint,
    device_cache,
    init_weights,
    logger,
    multihost,
    optimizer,
    parallel,
    preemption,
    prefetch,
    workdir,
)
from fof_jax.training.build import INIT
from fof_jax.training.compilation import Ahead
from fof_jax.training.evaluator import Evaluator
from fof_jax.training.fold import Fold, label
from fof_jax.training.fold_metrics import DelayedMetrics, open_logger
from fof_jax.training.preemption import Action
from fof_jax.training.state import Schedule, Step, TrainState, initial_state
from fof_jax.types import Batch


def train_fold(fold: Fold, stop: preemption.StopRequest) -> predictions.Predictions:
    """Trains one fold, or resumes it from its newest checkpoint, and tests it.

    Args:
      fold: what to train.
      stop: pending stop signal.

    Returns:
      Predictions of the test rows, also written to predictions.csv in its folder.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the last checkpoint is from
        before.
      ValueError: fewer regions than a batch, or a checkpoint of another model.
      preemption.Stopped: a stop was requested, and the last step is saved.
    """
    total = fold.total_steps

    # --- State: the newest valid checkpoint, or initialized ---
    checkpoints = checkpoint.Checkpoints(fold.folder / "checkpoints", log=fold.log)
    state = restore_or_initialize(fold, checkpoints)
    first = int(state.step)
    state = parallel.replicate(state, fold.setup.devices)
    if multihost.is_main_process():
        write_model_file(fold)
    consensus = multihost.StopConsensus()
    timer = checkpoint.SaveTimer(fold.config.save_minutes)
    action = Action.NONE

    with open_logger(fold, first) as log:
        metrics = DelayedMetrics(log, fold)
        evaluator = Evaluator(fold, first, log, checkpoints, stop, consensus)

        def save() -> None:
            metrics.settle()  # nothing that is not finite is ever saved
            checkpoints.save(state)
            timer.restart()

        evaluator.after(first, state)  # the run before may have been killed during it

        # --- Steps ---
        end = first if evaluator.selection.exhausted else total
        calls = batches_of_calls(fold, first, end)
        ahead = prefetch.Prefetch(calls, functools.partial(place, fold))
        t = first
        for batches, placed in stop.until(ahead, alone=jax.process_count() == 1):
            schedule = schedule_of_call(fold, t, len(batches))
            inputs = state, placed, schedule, fold.frozen
            program = step_program(fold, log, metrics, t, len(batches), inputs)
            state, step_metrics = program(*inputs)
            log.waited(ahead.take_waited())
            metrics.push(t, step_metrics, batches)
            t += len(batches)
            requested = Action.SAVE if timer.due() else Action.NONE
            action = consensus(max(stop.action, requested))
            if action or fold.is_saved_after(t):
                save()
            if action is Action.STOP:
                break
            evaluator.after(t, state)
            if evaluator.selection.exhausted:
                break
        if metrics.pending:  # a signal stopped the loader first
            save()
        done = int(state.step)
        ended = done == total or evaluator.selection.exhausted
        try:
            if action is Action.STOP or not ended:
                fold.log(f"{label(fold)}: saved at step {done} of {total}")
                raise preemption.Stopped(multihost.all_max(stop.code))
            # --- Test, once: the last epoch, or the best on the validation rows ---
            return evaluator.finish(state)
        finally:
            checkpoints.close()


def write_model_file(fold: Fold) -> None:
    """Writes the fold's model.json, see `workdir.write_model_file`."""
    workdir.write_model_file(
        fold.folder,
        fold.config,
        fold.cache.store,
        fold.rows.train,
        fold.frozen,
        fold.graphs,
    )


def restore_or_initialize(
    fold: Fold, checkpoints: checkpoint.Checkpoints
) -> TrainState:
    """The newest valid checkpoint, or new parameters with the config's weights."""
    config, setup = fold.config, fold.setup
    key = jax.random.fold_in(jax.random.fold_in(setup.key, INIT), fold.number)
    example = next(train_batches(fold))
    if isinstance(fold.cache, device_cache.DeviceImages):  # the shape decides
        rows, side = len(example.index), fold.cache.image_size
        pixels = np.zeros((rows, side, side, 3), np.uint8)
        example = dataclasses.replace(example, image=pixels)
    state = initial_state(setup.method, setup.optimizer, key, example, fold.frozen)
    restored = checkpoints.restore(state)
    if restored is not None:
        step = int(restored.step)
        fold.log(f"{label(fold)}: resumes from step {step} of {fold.total_steps}")
        return restored
    variables = init_weights.initial_variables(
        state.variables(fold.frozen),
        checkpoint=config.init.checkpoint,
        encoder=encoder.find_vit(config),
        class_token=config.init.class_token,
        pos_embed=config.init.pos_embed,
        pos_resize=config.init.pos_resize,
        log=fold.log,
    )
    return dataclasses.replace(state, params=variables.params, state=variables.state)


def step_program(
    fold: Fold,
    log: "logger.MetricsLogger | logger.NullLogger",
    metrics: DelayedMetrics,
    step: int,
    count: int,
    inputs: tuple[Any, ...],
) -> Step:
    """Program of `count` steps; compiling it is said and not timed."""
    program = fold.setup.train_step if count == 1 else fold.setup.train_steps
    if not isinstance(program, Ahead) or program.is_compiled(*inputs):
        return program
    metrics.settle()  # steps before the clock of the rates starts again
    fold.log("compiling the step …" if count == 1 else f"compiling {count} steps …")
    begin = time.monotonic()
    program.compiled(*inputs)
    fold.log(f"compiled in {time.monotonic() - begin:.1f} s")
    log.begin(step)
    return program


def train_batches(fold: Fold, start_step: int = 0) -> Iterator[Batch]:
    """Batches of the training rows from a step on; classes weighted if asked."""
    config, data = fold.config, fold.cache.store
    inputs = fold.setup.method.inputs
    process, processes = multihost.process_index_and_count()
    batches = loader.train_batches(
        data,
        fold.rows.train,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        image_size=config.data.image_size,
        start_step=start_step,
        balanced=config.data.balanced,
        omics="omics" in inputs.train,
        superpixels=superpixels.open_maps(data, inputs.superpixels),
        **cell_graphs.loading(inputs.train, fold.graphs),
        cache=fold.cache,
        workers=config.data.workers,
        threads=decoding_threads(config),
        process_index=process,
        process_count=processes,
    )
    if not config.data.class_weights:
        return batches
    grades = data.grades[fold.rows.train]
    weights = sampling.class_weights(grades, len(data.classes))
    return (dataclasses.replace(b, weight=weights[b.grade]) for b in batches)


def batches_of_calls(fold: Fold, first: int, end: int) -> Iterator[tuple[Batch, ...]]:
    """Batches of steps `first` … `end` - 1, as many together as one call runs.

    Batches of different shapes, such as those of cell graphs, go one by one.
    """
    if first == end:
        return
    batches = train_batches(fold, start_step=first)
    while first < end:
        call = tuple(itertools.islice(batches, fold.steps_together(first)))
        if not call:
            return
        shapes = {tuple(a.shape for a in jax.tree.leaves(batch)) for batch in call}
        yield from [call] if len(shapes) == 1 else [(batch,) for batch in call]
        first += len(call)


def place(fold: Fold, batches: Sequence[Batch]) -> Batch:
    """Training batches of a call on the devices, with their pixels."""
    devices = fold.setup.devices
    if len(batches) == 1:
        placed = parallel.place(batches[0], devices)
    else:
        placed = parallel.place_several(batches, devices)
    return device_cache.fill(fold.cache, placed)


def schedule_of_call(fold: Fold, first: int, count: int) -> Schedule:
    """Inputs of the steps of a call: scalars of one, [n] of n steps."""
    schedules = [schedule_of(fold, t) for t in range(first, first + count)]
    if count == 1:
        return schedules[0]
    return jax.tree.map(lambda *a: np.stack(a), *schedules)


def schedule_of(fold: Fold, step: int) -> Schedule:
    """Learning rate and progress of a step."""
    rate = optimizer.learning_rate(
        fold.config, step, steps_per_epoch=fold.steps_per_epoch
    )
    progress = step / fold.total_steps
    return Schedule(
        learning_rate=np.float32(rate),
        progress=np.float32(progress),
        epoch=np.int32(step // fold.steps_per_epoch),
    )
