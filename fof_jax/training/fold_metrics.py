"""Metrics of a fold's steps: read one step late, checked, and logged."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fof_jax.training import logger, multihost, optimizer, option_ranges
from fof_jax.training.build import flatten_fields
from fof_jax.training.fold import Fold, NonFiniteError, label
from fof_jax.types import Batch

_Call = tuple[int, dict[str, Any], Sequence[Batch]]


class DelayedMetrics:
    """Reads the metrics of a call one call late, so that dispatch stays asynchronous.

    Attributes:
      pending: first step, metrics and batches of the call whose metrics have not been
        read; None if there is none.
    """

    def __init__(self, log: "logger.MetricsLogger | logger.NullLogger", fold: Fold):
        """Nothing is pending."""
        self._log, self._fold = log, fold
        self.pending: _Call | None = None

    def push(
        self, first: int, metrics: dict[str, Any], batches: Sequence[Batch]
    ) -> None:
        """Keeps the metrics of a call, and reads those of the one before.

        Args:
          first: first step of the call, from 0.
          metrics: scalars, or [n] of the n steps of the call.
          batches: of its steps.

        Raises:
          NonFiniteError: an earlier step has a metric that is not finite.
        """
        before, self.pending = self.pending, (first, metrics, batches)
        self._read(before)

    def settle(self) -> None:
        """Reads what is pending.

        Raises:
          NonFiniteError: it is not finite.
        """
        pending, self.pending = self.pending, None
        self._read(pending)

    def _read(self, pending: "_Call | None") -> None:
        if pending is None:
            return
        first, metrics, batches = pending
        rows = {k: np.atleast_1d(v) for k, v in jax.device_get(metrics).items()}
        for i, batch in enumerate(batches):
            self._log_step(first + i, {k: float(v[i]) for k, v in rows.items()}, batch)

    def _log_step(self, step: int, values: dict[str, float], batch: Batch) -> None:
        rate = optimizer.learning_rate(
            self._fold.config, step, steps_per_epoch=self._fold.steps_per_epoch
        )
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            data = self._fold.cache.store
            names = ", ".join(data.images[i] for i in multihost.gather(batch.index))
            raise NonFiniteError(
                f"step {step}: {', '.join(bad)} not finite (learning rate {rate:.3g}). "
                f"Images of the batch: {names}. The last checkpoint is from before. "
                "Try a lower --config.optimizer.learning_rate, or "
                "--config.debug.nans=True to see the first operation that fails."
            )
        self._log.step(step, values | {"learning_rate": rate})


def open_logger(fold: Fold, first: int) -> "logger.MetricsLogger | logger.NullLogger":
    """The logger of a fold; processes that do not write get one that does nothing."""
    kind = logger.MetricsLogger if multihost.is_main_process() else logger.NullLogger
    return kind(
        fold.folder,
        label=label(fold),
        first=first,
        total=fold.total_steps,
        per_epoch=fold.steps_per_epoch,
        every=fold.config.log_every,
        log=fold.log,
        trackers=option_ranges.tracker_names(fold.config),
        fields=flatten_fields(fold.config.to_dict()),
    )
