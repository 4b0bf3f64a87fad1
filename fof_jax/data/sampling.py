"""Classes of unequal size: drawing them equally often, and weights for a loss."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedRows:
    """Rows to draw, epoch after epoch, each class equally often.

    An epoch has as many draws of each class as of any other, up to one; within a
    class no row is drawn again before all of it have been. Positions are computed
    when they are asked for, so that the sequence can be handed to processes.

    Attributes:
      rows: positions in the store.
      grades: their classes.
      per_epoch: draws in an epoch.
      epochs: to run through.
      seed: of the draws.
    """

    rows: Int[np.ndarray, " n"]
    grades: Int[np.ndarray, " n"]
    per_epoch: int
    epochs: int
    seed: int
    _drawn: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(int(position), self.per_epoch)
        drawn = self._drawn.get(epoch)
        if drawn is None:
            drawn = self._epoch(epoch)
            self._drawn.clear()  # one epoch at a time is kept
            self._drawn[epoch] = drawn
        return int(drawn[at])

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        present = rng.permutation(np.unique(self.grades))
        drawn = []
        for k, grade in enumerate(present):
            # What does not divide goes to classes in random order.
            count = self.per_epoch // len(present)
            count += k < self.per_epoch % len(present)
            members = self.rows[self.grades == grade]
            rounds = -(-count // len(members))
            order = np.concatenate([rng.permutation(members) for _ in range(rounds)])
            drawn.append(order[:count])
        return rng.permutation(np.concatenate(drawn))


def class_weights(
    grades: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, " K"]:
    """Weights for a cross-entropy, inverse to how often a class occurs.

    w_k = n / (K' n_k), K' the classes that occur: the mean weight of an image is 1,
    so that a loss keeps its scale.

    Args:
      grades: class index of each training image.
      classes: K.

    Returns:
      float32; 0 for a class that does not occur.

    Raises:
      ValueError: no images, or an index beyond K.
    """
    counts = np.bincount(grades, minlength=classes)
    if not len(grades) or len(counts) > classes:
        raise ValueError(
            f"{len(grades)} grades up to {len(counts) - 1} for {classes} classes; "
            "expected one or more, each below the number of classes."
        )
    present = counts > 0
    weights = len(grades) / (present.sum() * np.maximum(counts, 1))
    return np.where(present, weights, 0).astype(np.float32)
