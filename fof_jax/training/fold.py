"""A fold of the cross-validation: what training one needs, and how long it is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import cache as image_cache
from fof_jax.data import loader
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.training.build import Setup
from fof_jax.types import Params


class NonFiniteError(FloatingPointError):
    """A loss or gradient is not finite; training cannot go on."""


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold of a run, or one stage of it.

    Attributes:
      config: of the stage, resolved.
      setup: what all folds share.
      cache: decoded images or bags, and their store.
      train_rows, test_rows: positions in the store.
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
    train_rows: np.ndarray
    test_rows: np.ndarray
    number: int
    stage: str
    folder: Path
    frozen: Params
    log: Callable[[str], None]
    graphs: GraphFolder | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training rows."""
        return loader.steps_per_epoch(len(self.train_rows), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def is_evaluated_after(self, steps: int) -> bool:
        """Whether the test rows are evaluated after `steps` steps, for the curves."""
        every = self.config.eval_every * self.steps_per_epoch
        return bool(every and steps) and steps % every == 0

    def is_saved_after(self, steps: int) -> bool:
        """Whether a checkpoint is due after `steps` steps, whatever the time."""
        return (
            steps % self.config.save_every == 0
            or steps == self.total_steps
            or self.is_evaluated_after(steps)  # a kill repeats only the evaluation
        )


def label(fold: Fold) -> str:
    """How lines of a fold begin: "fold 3", or "fold 3 teacher" for a stage."""
    return f"fold {fold.number} {fold.stage}".rstrip()
