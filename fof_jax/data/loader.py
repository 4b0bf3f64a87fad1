"""Batches from a store, by Grain: the step alone fixes the position in the data."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from fof_jax.data.cache import ImageCache, open_cache
from fof_jax.data.sampling import BalancedRows
from fof_jax.data.store import Store
from fof_jax.types import Batch

__all__ = [
    "ImageCache",
    "eval_batches",
    "open_cache",
    "steps_per_epoch",
    "train_batches",
]

_log = logging.getLogger(__name__)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in n records; what is left over is not drawn in that epoch."""
    return n // batch_size


def _reader(store: Store, image_size: int, cache: str | ImageCache) -> ImageCache:
    if isinstance(cache, str):
        return open_cache(store, image_size, cache)
    if cache.store is not store or cache.image_size != image_size:
        raise ValueError(
            f"The reader was opened on {cache.store.folder} at {cache.image_size}; "
            f"these batches are of {store.folder} at {image_size}."
        )
    return cache


@dataclasses.dataclass(frozen=True)
class _Dated:
    """Puts the epoch beside a row. A class, so that worker processes get it."""

    per_epoch: int

    def __call__(self, position: int, row: int) -> tuple[int, int, bool]:
        return row, position // self.per_epoch, True


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Positions -> the arrays of a batch. One call a batch: Grain costs per call."""

    reader: ImageCache
    mine: slice  # of a global batch: this process's rows
    seed: int | None = None  # of the places where training cuts
    omics: bool = False  # whether the batch holds the molecular vector

    def _corners(self, rows: np.ndarray, epoch: np.ndarray) -> np.ndarray | None:
        store = self.reader.store
        if self.seed is None:  # a test
            centre = store.test_corner
            return None if centre is None else np.tile(centre, (len(rows), 1))
        if store.train_view != "crop":
            return None
        keys = zip(rows.tolist(), epoch.tolist(), strict=True)
        return np.array(
            [np.random.default_rng((self.seed, *key)).random(2) for key in keys]
        )

    def __call__(self, drawn: tuple[Any, Any, Any]) -> dict[str, np.ndarray]:
        rows, epoch, valid = (np.asarray(part)[self.mine] for part in drawn)
        store = self.reader.store
        omics = {"omics": np.asarray(store.omics)[rows]} if self.omics else {}
        return omics | {
            "image": self.reader.read(rows, self._corners(rows, epoch)),
            "grade": store.grades[rows],
            "biomarkers": store.biomarker_values[rows],
            "known": store.known[rows],
            "floats": store.floats[rows],
            "index": rows.astype(np.int32),
            "epoch": epoch.astype(np.int32),
            "valid": valid,
        }


def _iterate(batches: grain.MapDataset, threads: int, workers: int) -> Iterator[Batch]:
    # Grain's default buffers 500 batches, which is gigabytes here.
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=2 * threads if threads else 1
    )
    dataset = batches.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    try:
        for arrays in iterator:
            yield Batch(**arrays)
    finally:
        iterator.close()


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} does not divide among {process_count} processes. "
            "Set --config.batch_size to a multiple of it."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} of {process_count}")
    return batch_size // process_count


def _positions(store: Store, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    positions = np.asarray(rows, np.int64)
    if positions.ndim != 1 or (
        positions.size and not 0 <= positions.min() <= positions.max() < len(store)
    ):
        raise ValueError(
            f"rows must be positions 0 … {len(store) - 1} of the store, in one "
            f"dimension; got shape {positions.shape}"
        )
    return positions


def train_batches(
    store: Store,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    image_size: int,
    start_step: int = 0,
    omics: bool = False,
    cache: str | ImageCache = "ram",
    workers: int = 0,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Shuffled batches, `steps_per_epoch(len(rows), batch_size)` an epoch.

    Every epoch is shuffled anew and no batch crosses an epoch. Shuffled first, then
    dealt out: of each global batch process 0 has the first rows, process 1 the next,
    so that their parts in order are the batch of a single process. Batches depend on
    seed, rows and step alone.

    Args:
      store: what to read. With its `balanced`, an epoch has as many records and draws
        the classes equally often; with its `train_view`, images are cut.
      rows: positions in the store that may be drawn.
      batch_size: of the global batch.
      epochs: to run through.
      seed: of the shuffle, at least 0.
      image_size: side of the images.
      start_step: steps that have been made already.
      omics: whether batches hold the raw molecular vector, NaN where unknown.
      cache: `ram`, `none`, or a reader from `open_cache` to share.
      workers: processes that decode. With a cache in RAM images are decoded once, in
        this process, by `threads`; no worker is started then.
      threads: that decode ahead in each process; 0 decodes on demand.
      process_index: of this process.
      process_count: their number.

    Returns:
      An iterator of this process's part of each batch, NumPy arrays, uint8 pixels.

    Raises:
      ValueError: fewer rows than a batch, a batch that does not divide, a bad count.
    """
    positions = _positions(store, rows)
    local = _local_size(batch_size, process_index, process_count)
    steps = steps_per_epoch(len(positions), batch_size)
    if steps == 0:
        raise ValueError(
            f"{len(positions)} rows do not fill one batch of {batch_size}. Set "
            f"--config.batch_size to {max(len(positions), 1)} or less."
        )
    if epochs < 1 or seed < 0 or min(workers, threads) < 0:
        raise ValueError(
            f"epochs={epochs} must be 1 or more; seed={seed}, workers={workers} and "
            f"threads={threads} must be 0 or more."
        )
    if not 0 <= start_step <= epochs * steps:
        raise ValueError(
            f"start_step={start_step}: {epochs} epochs have {epochs * steps} steps."
        )
    reader = _reader(store, image_size, cache)
    if workers and reader.cached:
        _log.info("data.cache='ram': workers=%d are not needed, none start", workers)
        workers = 0
    # Grain shuffles epoch e with seed + e: neighbouring seeds would share epochs.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    if store.balanced:
        grades = store.grades[positions]
        order = BalancedRows(positions, grades, steps * batch_size, epochs, seed)
        drawn = grain.MapDataset.source(order)
    else:
        drawn = grain.MapDataset.source(positions.tolist()).shuffle(seed=mixed)
        drawn = drawn[: steps * batch_size].repeat(epochs)
    drawn = drawn.map_with_index(_Dated(steps * batch_size))
    drawn = drawn.batch(batch_size, drop_remainder=True)[start_step:]
    mine = slice(process_index * local, (process_index + 1) * local)
    gathered = drawn.map(_Gather(reader, mine, seed, omics))
    return _iterate(gathered, threads, workers)


def eval_batches(
    store: Store,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    image_size: int,
    omics: bool = False,
    cache: str | ImageCache = "ram",
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches in the order of `rows`, each row once.

    The last batch is filled up by repeating the last row with `valid` False, so that
    every batch has one shape. `epoch` is 0.

    Args:
      store: what to read.
      rows: positions in the store; at least one.
      batch_size: of the global batch.
      image_size: side of the images.
      omics: whether batches hold the raw molecular vector.
      cache: `ram`, `none`, or a reader from `open_cache` to share.
      threads: that decode ahead; 0 decodes on demand.
      process_index: of this process.
      process_count: their number.

    Returns:
      An iterator of this process's part of each batch, NumPy arrays, uint8 pixels.

    Raises:
      ValueError: no rows, or a batch that does not divide.
    """
    positions = _positions(store, rows)
    local = _local_size(batch_size, process_index, process_count)
    if not len(positions):
        raise ValueError("There are no rows to evaluate.")
    missing = -len(positions) % batch_size
    padded = np.concatenate([positions, np.repeat(positions[-1], missing)])
    valid = np.arange(len(padded)) < len(positions)
    records = [(int(row), 0, bool(v)) for row, v in zip(padded, valid, strict=True)]
    drawn = grain.MapDataset.source(records).batch(batch_size)
    mine = slice(process_index * local, (process_index + 1) * local)
    batches = drawn.map(_Gather(_reader(store, image_size, cache), mine, omics=omics))
    return _iterate(batches, threads, workers=0)
