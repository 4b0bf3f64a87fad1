"""Order of the training rows, and class imbalance: balanced sampling and weights."""

import dataclasses

import grain
import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class _WithEpoch:
    """Maps a row to (row, epoch, valid). A class, so that it can be pickled."""

    per_epoch: int

    def __call__(self, position: int, row: int) -> tuple[int, int, bool]:
        return row, position // self.per_epoch, True


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedRows:
    """Sequence of training rows that samples each class equally often.

    Class counts of an epoch differ by at most one; within a class, rows are sampled
    without replacement until all have occurred. Positions are computed lazily, so
    that the sequence can be pickled cheaply.

    Attributes:
      rows: positions in the store.
      grades: class of each row.
      per_epoch: number of samples per epoch.
      epochs: number of epochs.
      seed: of the sampling.
    """

    rows: Int[np.ndarray, " n"]
    grades: Int[np.ndarray, " n"]
    per_epoch: int
    epochs: int
    seed: int
    _samples: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(int(position), self.per_epoch)
        samples = self._samples.get(epoch)
        if samples is None:
            samples = self._epoch(epoch)
            self._samples.clear()  # keeps one epoch
            self._samples[epoch] = samples
        return int(samples[at])

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        present = rng.permutation(np.unique(self.grades))
        samples = []
        for k, grade in enumerate(present):
            # The remainder goes to randomly chosen classes.
            count = self.per_epoch // len(present)
            count += k < self.per_epoch % len(present)
            members = self.rows[self.grades == grade]
            rounds = -(-count // len(members))
            order = np.concatenate([rng.permutation(members) for _ in range(rounds)])
            samples.append(order[:count])
        return rng.permutation(np.concatenate(samples))


def class_weights(
    grades: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, " K"]:
    """Cross-entropy weights, inverse to the class frequencies.

    w_k = n / (K' n_k) with K' the number of classes present: the mean weight over
    images is 1, which keeps the scale of the loss.

    Args:
      grades: class index of each training image.
      classes: K.

    Returns:
      float32; 0 for absent classes.

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


def training_records(
    rows: Int[np.ndarray, " n"],
    *,
    grades: Int[np.ndarray, " n"] | None,
    batch_size: int,
    epochs: int,
    seed: int,
) -> grain.MapDataset:
    """Batches of (row, epoch, valid) of all epochs; each epoch has its own order.

    Args:
      rows: positions in the store.
      grades: class of each row, for balanced sampling; None shuffles the rows.
      batch_size: of the global batch; the remainder of an epoch is dropped.
      epochs: number of epochs.
      seed: of the sampling.
    """
    per_epoch = len(rows) // batch_size * batch_size
    if grades is not None:
        order = BalancedRows(rows, grades, per_epoch, epochs, seed)
        records = grain.MapDataset.source(order)
    else:
        # Grain shuffles epoch e with seed + e; mixing keeps adjacent seeds independent.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        records = grain.MapDataset.source(rows.tolist()).shuffle(seed=mixed)
        records = records[:per_epoch].repeat(epochs)
    records = records.map_with_index(_WithEpoch(per_epoch))
    return records.batch(batch_size, drop_remainder=True)
