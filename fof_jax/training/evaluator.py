"""Predictions of a fold's validation and test rows, during training and at its end."""

import dataclasses

import numpy as np

from fof_jax.data import loader
from fof_jax.data.bags.cache import BagCache
from fof_jax.data.cache import decoding_threads
from fof_jax.evaluation import localization, metrics, predictions
from fof_jax.methods.base import BagExplainer, Explainer
from fof_jax.training import (
    cell_graphs,
    checkpoint,
    device_cache,
    localize,
    localize_bags,
    logger,
    map_pictures,
    multihost,
    parallel,
    preemption,
    selection,
    workdir,
)
from fof_jax.training.fold import Fold, label
from fof_jax.training.preemption import Action
from fof_jax.training.run_fields import BEST_FILE, VALIDATION_FILE
from fof_jax.training.state import TrainState
from fof_jax.types import Variables


class Evaluator:
    """Evaluates a fold: what is due after a step, and its results at the end.

    Attributes:
      selection: the best step on the validation rows.
    """

    def __init__(
        self,
        fold: Fold,
        first: int,
        log: "logger.MetricsLogger | logger.NullLogger",
        checkpoints: checkpoint.Checkpoints,
        stop: preemption.StopRequest,
        consensus: multihost.StopConsensus,
    ):
        """Reads what the log has of an earlier run.

        Args:
          fold: whose rows are predicted.
          first: steps already taken.
          log: of the fold.
          checkpoints: of the fold; the best one is kept.
          stop: pending stop signal.
          consensus: of the processes.
        """
        self._fold, self._log, self._checkpoints = fold, log, checkpoints
        self._stop, self._consensus = stop, consensus
        self.selection = selection.of_fold(fold, first)
        checkpoints.best = self.selection.best

    def after(self, done: int, state: TrainState) -> None:
        """Evaluates what is due after `done` steps, unless it is logged already.

        Raises:
          preemption.Stopped: a stop was requested; the state is saved.
        """
        fold = self._fold
        rows, evaluated = fold.rows.validation, False
        if (
            rows is not None
            and fold.is_validated_after(done)
            and done not in self.selection.values
        ):
            figures = selection.measure(self._predict(rows, state))
            self.selection.add(done, figures)
            self._checkpoints.best = self.selection.best
            self._log.validation(done, figures)
            evaluated = True
        if fold.is_evaluated_after(done) and not multihost.broadcast(
            self._log.evaluated(done)
        ):
            self._log.evaluation(done, self._predict(fold.rows.test, state))
            evaluated = True
        if evaluated:
            self._draw(done, state)

    def finish(self, state: TrainState) -> predictions.Predictions:
        """Predicts the test rows and writes the results.

        Args:
          state: of the last step. With validation rows the best step takes its place.
        """
        fold, best = self._fold, self.selection.best
        # W&B drops what is logged at an earlier step than the one before.
        last = int(state.step)
        validated: predictions.Predictions | None = None
        if best is not None and best != last:
            state = self._checkpoints.restore_step(best, state)
            state = parallel.replicate(state, fold.setup.devices)
        if fold.rows.validation is not None:
            validated = self._predict(fold.rows.validation, state)
        tested = self._predict(fold.rows.test, state)
        if multihost.is_main_process():
            if validated is not None and best is not None:
                path = fold.folder / VALIDATION_FILE
                predictions.write_predictions(path, validated)
                document = self.selection.to_json(best, fold.total_steps)
                workdir.write_json(fold.folder / BEST_FILE, document)
                fold.log(f"{label(fold)}: {selection.describe(document)}")
            write_results(fold, state.variables(fold.frozen), tested)
            scores = metrics.scores(tested.y, tested.prob, average="micro")
            figures = {name: scores[name] for name in metrics.METRICS}
            known = {k: v for k, v in figures.items() if v is not None}
            self._log.result(last, known)
            self._draw(last, state)
        return tested

    def _draw(self, done: int, state: TrainState) -> None:
        """Tracks pictures of maps, if they are asked for."""
        if not multihost.is_main_process():
            return
        variables = state.variables(self._fold.frozen)
        for name, pixels in map_pictures.draw(self._fold, variables).items():
            self._log.picture(done, name, pixels)

    def _predict(self, rows: np.ndarray, state: TrainState) -> predictions.Predictions:
        variables = state.variables(self._fold.frozen)
        table = predict(self._fold, rows, variables, self._stop, self._consensus)
        number = np.full(len(table), self._fold.number)
        return dataclasses.replace(table, fold=number)


def predict(
    fold: Fold,
    rows: np.ndarray,
    variables: Variables,
    stop: preemption.StopRequest,
    consensus: multihost.StopConsensus,
) -> predictions.Predictions:
    """Softmax probabilities of rows of the store, one or more.

    Raises:
      preemption.Stopped: a stop was requested, which is looked at before each batch.
    """
    config, data = fold.config, fold.cache.store
    process, processes = multihost.process_index_and_count()
    count = len(fold.setup.devices)
    parts = []
    for batch in loader.eval_batches(
        data,
        rows,
        batch_size=-(-config.eval_batch_size // count) * count,
        image_size=config.data.image_size,
        omics="omics" in fold.setup.method.inputs.test,
        **cell_graphs.loading(fold.setup.method.inputs.test, fold.graphs),
        cache=fold.cache,
        threads=decoding_threads(config),
        process_index=process,
        process_count=processes,
    ):
        if consensus(stop.action) is Action.STOP:
            raise preemption.Stopped(multihost.all_max(stop.code))
        placed = parallel.to_devices(batch, count // processes)
        placed = device_cache.fill(fold.cache, placed)
        logits = np.asarray(fold.setup.predict_step(variables, placed), np.float64)
        parts.append(np.exp(logits - logits.max(axis=1, keepdims=True)))
    scores = np.concatenate(parts)[: len(rows)]  # the last batch is padded
    return predictions.Predictions(
        patient=tuple(data.patients[i] for i in rows),
        image=tuple(data.images[i] for i in rows),
        fold=np.full(len(rows), predictions.UNKNOWN),
        y=np.asarray(data.grades)[rows],
        prob=scores / scores.sum(axis=1, keepdims=True),
        error=("",) * len(rows),
    )


def write_results(
    fold: Fold, variables: Variables, tested: predictions.Predictions
) -> None:
    """Writes focus.csv, if the method has a map, and then predictions.csv."""
    method, reader = fold.setup.method, fold.cache
    rows: list[localization.Row] = []
    if isinstance(reader, BagCache):
        if isinstance(method, BagExplainer):
            rows = localize_bags.measure(
                method, variables, reader, fold.rows.test, fold=fold.number
            )
    elif isinstance(method, Explainer):
        reader = device_cache.on_host(reader)
        rows = localize.measure(
            method,
            variables,
            reader,
            fold.rows.test,
            image_size=fold.config.data.image_size,
            batch_size=fold.config.eval_batch_size,
            color=fold.config.data.color,
            fold=fold.number,
        )
    localization.write(fold.folder / localization.FILE_NAME, rows)
    predictions.write_predictions(fold.folder / "predictions.csv", tested)
