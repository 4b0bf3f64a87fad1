"""One fold, from fresh parameters to predictions."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax import (
    checkpoint,
    hosts,
    optimizer,
    parallel,
    predictions,
    runlog,
)
from fof_jax.data import (
    balance,
    loader,
    prefetch,
    splits,
    store,
)
from fof_jax.pretrained import start
from fof_jax.program import INIT, Program, encoder
from fof_jax.shapes import Batch, Variables


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

    Returns:
      Predictions of the test regions, also written to fold_K/predictions.csv.

    Raises:
      NonFiniteError: a loss or gradient is not finite; the last checkpoint is from
        before.
      ValueError: fewer regions than a batch, or a checkpoint of another model.
    """
    folder = workdir / f"fold_{fold}"
    train_rows, test_rows = folds.folds[fold]
    per_epoch = loader.steps_per_epoch(len(train_rows), config.batch_size)
    total = config.epochs * per_epoch

    # --- State: fresh, or the newest whole checkpoint ---
    process, processes = hosts.share()
    of_class = None
    if config.data.class_weights:
        data = reader.store
        of_class = balance.class_weights(data.grades[train_rows], len(data.classes))
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
    state = parallel.initial_state(
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
        begun = start.begin(
            state.variables, encoder=encoder(config), say=say, **config.init
        )
        state = dataclasses.replace(state, params=begun.params, state=begun.state)
    first = int(state.step)
    state = parallel.replicate(state, program.devices)
    open_log = runlog.RunLog if hosts.writes() else runlog.NoLog
    log = open_log(
        folder,
        label=f"fold {fold}",
        first=first,
        total=total,
        per_epoch=per_epoch,
        every=config.log_every,
        say=say,
    )

    # --- Steps ---
    with log:
        pending: list[tuple[int, dict, Batch, float]] = []
        ahead = prefetch.Prefetch(
            (_weighted(batch, of_class) for batch in batches(start_step=first)),
            lambda batch: parallel.place(batch, program.devices),
        )
        steps = zip(range(first, total), ahead, strict=False)
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
            if done % config.save_every == 0 or done == total:
                for one in pending:  # nothing that is not finite is ever saved
                    _settle(one, log, reader.store)
                pending.clear()
                kept.save(state)
            if config.eval_every and done % (config.eval_every * per_epoch) == 0:
                tested = predict(config, program, state.variables, reader, test_rows)
                log.evaluation(done, tested)
    kept.close()

    # --- Test: the last epoch, once ---
    tested = predict(config, program, state.variables, reader, test_rows)
    tested = dataclasses.replace(tested, fold=np.full(len(tested), fold))
    if hosts.writes():
        predictions.write_predictions(folder / "predictions.csv", tested)
    return tested


def predict(
    config: ConfigDict,
    program: Program,
    variables: Variables,
    reader: loader.Reader,
    rows: np.ndarray,
) -> predictions.Predictions:
    """Softmax probabilities of some regions of a store."""
    process, processes = hosts.share()
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


def _weighted(batch: Batch, of_class: np.ndarray | None) -> Batch:
    """Gives each row the weight of its class, if classes are weighted."""
    if of_class is None:
        return batch
    return dataclasses.replace(batch, weight=of_class[batch.grade])


def _settle(
    one: tuple[int, dict, Batch, float],
    log: runlog.RunLog | runlog.NoLog,
    data: store.Store,
) -> None:
    """Reads a finished step's figures, logs them, stops on what is not finite."""
    step, metrics, batch, rate = one
    figures = {k: float(v) for k, v in jax.device_get(metrics).items()}
    bad = [name for name, value in figures.items() if not np.isfinite(value)]
    if bad:
        images = ", ".join(data.images[i] for i in hosts.gather(batch.index))
        raise NonFiniteError(
            f"step {step}: {', '.join(bad)} not finite (learning rate {rate:.3g}). "
            f"Images of the batch: {images}. The last checkpoint is from before. Try "
            "a lower --config.optimizer.learning_rate, or --config.debug.nans=True to "
            "see the first operation that fails."
        )
    log.step(step, figures | {"learning_rate": rate})
