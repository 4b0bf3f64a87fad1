"""One fold, from fresh parameters to predictions."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import loader, sampling, splits, store
from fof_jax.evaluation import localization, predictions
from fof_jax.training import (
    checkpoint,
    init_weights,
    localize,
    logger,
    multihost,
    optimizer,
    parallel,
    preemption,
    prefetch,
)
from fof_jax.training import state as training_state
from fof_jax.training import workdir as training_workdir
from fof_jax.training.build import INIT, Program, encoder
from fof_jax.types import Batch, Variables


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is not a number; training cannot go on."""


def train_fold(
    config: ConfigDict,
    program: Program,
    reader: loader.Reader,
    folds: splits.Splits,
    fold: int,
    workdir: Path,
    say: Callable[[str], None],
    stop: preemption.Request,
) -> predictions.Predictions:
    """Trains one fold, or goes on from its newest checkpoint, and tests it.

    Args:
      config: resolved.
      program: of `build_program`.
      reader: decoded regions.
      folds: who trains and who tests.
      fold: which one.
      workdir: the run's folder; this fold writes under fold_K/.
      say: prints a line.
      stop: whether a signal has asked for an end.

    Returns:
      Predictions of the test regions, also written to fold_K/predictions.csv.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the last checkpoint is from
        before.
      ValueError: fewer regions than a batch, or a checkpoint of another model.
      stopping.Stopped: `stop` was asked for, and the last step is saved.
    """
    folder = workdir / f"fold_{fold}"
    train_rows, test_rows = folds.folds[fold]
    per_epoch = loader.steps_per_epoch(len(train_rows), config.batch_size)
    total = config.epochs * per_epoch

    # --- State: fresh, or the newest whole checkpoint ---
    process, processes = multihost.share()
    of_class = None
    if config.data.class_weights:
        data = reader.store
        of_class = sampling.class_weights(data.grades[train_rows], len(data.classes))
    batches = functools.partial(
        loader.train_batches,
        reader.store,
        train_rows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        image_size=config.data.image_size,
        cache=reader,
        workers=config.data.workers,
        threads=config.data.threads,
        process_index=process,
        process_count=processes,
    )
    example = _weighted(next(batches()), of_class)
    state = training_state.initial_state(
        program.method,
        program.adamw,
        jax.random.fold_in(jax.random.fold_in(program.key, INIT), fold),
        example,
    )
    kept = checkpoint.Checkpoints(folder / "checkpoints", say=say)
    restored = kept.restore(state)
    if restored is not None:
        state = restored
        say(f"fold {fold}: goes on from step {int(state.step)} of {total}")
    else:
        begun = init_weights.begin(
            state.variables, encoder=encoder(config), say=say, **config.init
        )
        state = dataclasses.replace(state, params=begun.params, state=begun.state)
    first = int(state.step)
    state = parallel.replicate(state, program.devices)
    if multihost.writes():
        training_workdir.describe(folder, config, reader.store)
    open_log = logger.RunLog if multihost.writes() else logger.NoLog
    log = open_log(
        folder,
        label=f"fold {fold}",
        first=first,
        total=total,
        per_epoch=per_epoch,
        every=config.log_every,
        say=say,
    )

    votes, clock = multihost.Votes(), checkpoint.Clock(config.save_minutes)
    pending: list[tuple[int, dict, Batch, float]] = []

    def save() -> None:
        while pending:  # nothing that is not finite is ever saved
            _settle(pending.pop(0), log, reader.store)
        kept.save(state)
        clock.restart()

    def test() -> predictions.Predictions:
        return predict(
            config,
            program,
            state.variables,
            reader,
            test_rows,
            asked=lambda: votes(stop.code),
        )

    # --- Steps ---
    with log:
        if _evaluates(config, first, per_epoch) and not multihost.first_says(
            log.evaluated(first)
        ):
            log.evaluation(first, test())  # the run before was cut off in it
        asked = 0
        ahead = prefetch.Prefetch(
            (_weighted(batch, of_class) for batch in batches(start_step=first)),
            lambda batch: parallel.place(batch, program.devices),
        )
        steps = zip(
            range(first, total), stop.until(ahead, alone=processes == 1), strict=False
        )
        for t, (batch, placed) in steps:
            rate = optimizer.cosine(
                t,
                learning_rate=config.optimizer.learning_rate,
                total_steps=total,
                warmup_steps=config.optimizer.warmup_epochs * per_epoch,
            )
            state, metrics = program.train(state, placed, np.float32(rate))
            log.waited(ahead.take_waited())
            # The step before this one is read now: the device never waits for us.
            pending.append((t, metrics, batch, rate))
            if len(pending) > 1:
                _settle(pending.pop(0), log, reader.store)
            done = t + 1
            asked = votes(stop.code or clock.due())
            evaluates = _evaluates(config, done, per_epoch)
            # Before an evaluation too: what is cut off is done again, and no more.
            if asked or evaluates or done % config.save_every == 0 or done == total:
                save()
            if asked >= preemption.FIRST_CODE:
                break
            if evaluates:
                log.evaluation(done, test())
        if pending:  # the signal has ended the loader before us
            save()
    kept.close()
    if asked >= preemption.FIRST_CODE or int(state.step) < total:
        say(f"fold {fold}: saved at step {int(state.step)} of {total}")
        raise preemption.Stopped(max(asked, stop.code))

    # --- Test: the last epoch, once ---
    tested = test()
    tested = dataclasses.replace(tested, fold=np.full(len(tested), fold))
    if multihost.writes():
        pointed = localize.measure(
            program.method,
            state.variables,
            reader,
            test_rows,
            image_size=config.data.image_size,
            batch_size=config.eval_batch_size,
            color=config.data.color,
            fold=fold,
        )
        localization.write(folder / localization.FILE_NAME, pointed)
        predictions.write_predictions(folder / "predictions.csv", tested)
    return tested


def predict(
    config: ConfigDict,
    program: Program,
    variables: Variables,
    reader: loader.Reader,
    rows: np.ndarray,
    *,
    asked: Callable[[], int] = lambda: 0,
) -> predictions.Predictions:
    """Softmax probabilities of some regions of a store.

    Raises:
      stopping.Stopped: `asked`, called before each batch, gave the code of a signal.
    """
    process, processes = multihost.share()
    count = len(program.devices)
    size = -(-config.eval_batch_size // count) * count
    parts = []
    for batch in loader.eval_batches(
        reader.store,
        rows,
        batch_size=size,
        image_size=config.data.image_size,
        cache=reader,
        threads=config.data.threads,
        process_index=process,
        process_count=processes,
    ):
        if (code := asked()) >= preemption.FIRST_CODE:
            raise preemption.Stopped(code)
        placed = parallel.to_devices(batch, count // processes)
        logits = np.asarray(program.predict(variables, placed), np.float64)
        parts.append(np.exp(logits - logits.max(axis=1, keepdims=True)))
    odds = np.concatenate(parts)[: len(rows)]  # the last batch was filled up
    data = reader.store
    return predictions.Predictions(
        patient=tuple(data.patients[i] for i in rows),
        image=tuple(data.images[i] for i in rows),
        fold=np.full(len(rows), predictions.UNKNOWN),
        y=np.asarray(data.grades)[rows],
        prob=odds / odds.sum(axis=1, keepdims=True),
        error=("",) * len(rows),
    )


def _evaluates(config: ConfigDict, done: int, per_epoch: int) -> bool:
    """Whether the test fold is looked at after `done` steps."""
    return bool(config.eval_every and done) and (
        done % (config.eval_every * per_epoch) == 0
    )


def _weighted(batch: Batch, of_class: np.ndarray | None) -> Batch:
    """Gives each row the weight of its class, if classes are weighted."""
    if of_class is None:
        return batch
    return dataclasses.replace(batch, weight=of_class[batch.grade])


def _settle(
    one: tuple[int, dict, Batch, float],
    log: logger.RunLog | logger.NoLog,
    data: store.Store,
) -> None:
    """Reads a finished step's figures, logs them, stops on what is not finite."""
    step, metrics, batch, rate = one
    figures = {k: float(v) for k, v in jax.device_get(metrics).items()}
    bad = [name for name, value in figures.items() if not np.isfinite(value)]
    if bad:
        images = ", ".join(data.images[i] for i in multihost.gather(batch.index))
        raise NonFiniteError(
            f"step {step}: {', '.join(bad)} not finite (learning rate {rate:.3g}). "
            f"Images of the batch: {images}. The last checkpoint is from before. Try "
            "a lower --config.optimizer.learning_rate, or --config.debug.nans=True to "
            "see the first operation that fails."
        )
    log.step(step, figures | {"learning_rate": rate})
