"""A fold of the cross-validation: what training one needs, and how long it is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import cache as image_cache
from fof_jax.data import loader
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.training.build import Setup
from fof_jax.types import Params


class NonFiniteError(FloatingPointError):
    """A loss or gradient is not finite; training cannot go on."""


class Rows(NamedTuple):
    """Positions in the store of a fold's regions.

    Attributes:
      train: without those of validation.
      test: of the test fold.
      validation: None without validation.
    """

    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold of a run, or one stage of it.

    Attributes:
      config: of the stage, resolved.
      setup: what all folds share.
      cache: decoded images or bags, and their store.
      rows: positions in the store.
      number: of the fold, 0 … folds - 1.
      stage: its name, "" for the last or only one.
      folder: what this fold writes goes below it.
      frozen: constants, see `Variables.frozen`.
      log: prints a line.
      graphs: those of the store, for a method that reads them.
    """

    config: ConfigDict
    setup: Setup
    cache: image_cache.Cache
    rows: Rows
    number: int
    stage: str
    folder: Path
    frozen: Params
    log: Callable[[str], None]
    graphs: GraphFolder | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training rows."""
        return loader.steps_per_epoch(len(self.rows.train), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def is_evaluated_after(self, steps: int) -> bool:
        """Whether the test rows are evaluated after `steps` steps, for the curves."""
        every = self.config.eval_every * self.steps_per_epoch
        return bool(every and steps) and steps % every == 0

    def is_validated_after(self, steps: int) -> bool:
        """Whether the validation rows are predicted after `steps` steps."""
        if self.rows.validation is None or not steps:
            return False
        every = self.config.validation_every * self.steps_per_epoch
        return steps % every == 0 or steps == self.total_steps

    def is_saved_after(self, steps: int) -> bool:
        """Whether a checkpoint is due after `steps` steps, whatever the time."""
        return (
            steps % self.config.save_every == 0
            or steps == self.total_steps
            or self.is_evaluated_after(steps)  # a kill repeats only the evaluation
            or self.is_validated_after(steps)  # it may be the best one
        )

    def steps_together(self, first: int) -> int:
        """Number of steps of the call that begins after `first` steps.

        `steps_per_call`, or as many as an epoch or `save_every` has where these are
        fewer; one where a checkpoint, an evaluation or the end of an epoch comes
        before all of them.
        """
        count = min(
            self.config.get("steps_per_call", 1),
            self.steps_per_epoch,
            self.config.save_every,
        )
        for done in range(first + 1, first + count):
            if self.is_saved_after(done) or done % self.steps_per_epoch == 0:
                return 1
        return count


def label(fold: Fold) -> str:
    """How lines of a fold begin: "fold 3", or "fold 3 teacher" for a stage."""
    return f"fold {fold.number} {fold.stage}".rstrip()
