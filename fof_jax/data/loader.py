"""Training and evaluation batches from a store, with Grain.

The data position is a function of the step, so resuming needs no loader state.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from fof_jax.data import sampling
from fof_jax.data.bags.cache import BagCache
from fof_jax.data.cache import Cache, ImageCache, open_cache
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.store import Store
from fof_jax.data.superpixels import SuperpixelMaps
from fof_jax.types import Batch

__all__ = [
    "Cache",
    "ImageCache",
    "eval_batches",
    "open_cache",
    "steps_per_epoch",
    "train_batches",
]

_log = logging.getLogger(__name__)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Number of full batches in n records; the remainder is dropped."""
    return n // batch_size


def _cache_of(store: Store, image_size: int, cache: str | Cache) -> Cache:
    if isinstance(cache, str):
        return open_cache(store, image_size, cache)
    if isinstance(cache, BagCache):
        if cache.store is not store:
            raise ValueError(
                f"The cache holds bags of {cache.store.folder}; batches of "
                f"{store.folder} were requested."
            )
        return cache
    if cache.store is not store or cache.image_size != image_size:
        raise ValueError(
            f"The image cache holds {cache.store.folder} at {cache.image_size}; "
            f"batches of {store.folder} at {image_size} were requested."
        )
    return cache


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Gathers the arrays of a batch in one call, since Grain has a cost per call."""

    cache: Cache
    local: slice  # rows of this process in the global batch
    seed: int | None = None  # of crops and sampled patches; None for evaluation
    omics: bool = False  # whether to include the molecular features
    superpixels: SuperpixelMaps | None = None
    graphs: GraphFolder | None = None
    images: bool = True

    def __call__(self, records: tuple[Any, Any, Any]) -> dict[str, Any]:
        rows, epoch, valid = (np.asarray(part) for part in records)
        inputs: dict[str, Any] = {}
        if self.images:
            inputs = self.cache.inputs(rows, epoch, local=self.local, seed=self.seed)
        if self.graphs is not None:  # all processes pad to the largest of all rows
            inputs["graph"] = self.graphs.read(rows[self.local], together=rows)
        rows, epoch, valid = (part[self.local] for part in (rows, epoch, valid))
        store = self.cache.store
        more = {"omics": np.asarray(store.omics)[rows]} if self.omics else {}
        if self.superpixels is not None and isinstance(self.cache, ImageCache):
            side = self.cache.image_size
            corners = self.cache.corners(rows, epoch, self.seed)
            more["superpixels"] = self.superpixels.read(rows, side, corners)
        return (inputs | more) | {
            "grade": store.grades[rows],
            "biomarkers": store.biomarker_values[rows],
            "known": store.known[rows],
            "floats": store.floats[rows],
            "index": rows.astype(np.int32),
            "epoch": epoch.astype(np.int32),
            "valid": valid,
        }


def _iterate(batches: grain.MapDataset, threads: int, workers: int) -> Iterator[Batch]:
    # Grain's default of 500 buffered batches would take gigabytes.
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=2 * threads if threads else 1
    )
    dataset = batches.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    try:
        for arrays in iterator:
            yield Batch(**{"image": None} | arrays)  # bags have none
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


def _require_steps(rows: int, batch_size: int, epochs: int, start_step: int) -> None:
    steps = steps_per_epoch(rows, batch_size)
    if steps == 0:
        raise ValueError(
            f"{rows} rows do not fill one batch of {batch_size}. Set "
            f"--config.batch_size to {max(rows, 1)} or less."
        )
    if not 0 <= start_step <= epochs * steps:
        raise ValueError(
            f"start_step={start_step}: {epochs} epochs have {epochs * steps} steps."
        )


def train_batches(
    store: Store,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    image_size: int,
    start_step: int = 0,
    balanced: bool = False,
    omics: bool = False,
    superpixels: SuperpixelMaps | None = None,
    graphs: GraphFolder | None = None,
    images: bool = True,
    cache: str | Cache = "ram",
    workers: int = 0,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Shuffled batches, `steps_per_epoch(len(rows), batch_size)` per epoch.

    Each epoch has its own shuffle and no batch spans two epochs. The global batch is
    split among processes in order: process 0 has the first rows. Batches depend only
    on seed, rows and step.

    Args:
      store: source of the data; its `options.train_view` selects random crops.
      rows: positions of the training rows in the store.
      batch_size: size of the global batch.
      epochs: number of epochs.
      seed: of the shuffle, at least 0.
      image_size: side of the images; unused for bags.
      start_step: number of completed steps to skip.
      balanced: whether the classes are sampled equally often, with unchanged epoch
        length.
      omics: whether batches include raw molecular features, NaN where unknown.
      superpixels: those of the store, if batches include them.
      graphs: those of the store, if batches include them.
      images: whether batches include images; `image` is None without.
      cache: `ram`, `none`, or a shared cache from `open_cache`.
      workers: number of decoding processes. Unused with a RAM cache, which decodes
        each image once, in this process, by `threads`.
      threads: prefetching threads in each process; 0 decodes on demand.
      process_index: of this process.
      process_count: number of processes.

    Returns:
      An iterator over the local part of each batch, NumPy arrays with uint8 pixels; of
      bags with `bag`, at most `store.max_tokens` patches each, keyed by row and epoch.

    Raises:
      ValueError: fewer rows than a batch, an indivisible batch, or a bad count.
    """
    positions = _positions(store, rows)
    local = _local_size(batch_size, process_index, process_count)
    if epochs < 1 or seed < 0 or min(workers, threads) < 0:
        raise ValueError(
            f"epochs={epochs} must be 1 or more; seed={seed}, workers={workers} and "
            f"threads={threads} must be 0 or more."
        )
    _require_steps(len(positions), batch_size, epochs, start_step)
    pixels = _cache_of(store, image_size, cache)
    if workers and pixels.cached:
        _log.info(
            "data.cache='ram': workers=%d are not needed, none are started", workers
        )
        workers = 0
    records = sampling.training_records(
        positions,
        grades=store.grades[positions] if balanced else None,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
    )[start_step:]
    local_rows = slice(process_index * local, (process_index + 1) * local)
    gather = _Gather(pixels, local_rows, seed, omics, superpixels, graphs, images)
    gathered = records.map(gather)
    return _iterate(gathered, threads, workers)


def eval_batches(
    store: Store,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    image_size: int,
    omics: bool = False,
    graphs: GraphFolder | None = None,
    images: bool = True,
    cache: str | Cache = "ram",
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches in the order of `rows`, each row once.

    The last batch is padded by repeating the last row with `valid` False, so that all
    batches have the same shape. `epoch` is 0.

    Args:
      store: source of the data.
      rows: positions in the store; at least one.
      batch_size: size of the global batch.
      image_size: side of the images; unused for bags.
      omics: whether batches include raw molecular features.
      graphs, images: as in `train_batches`.
      cache: `ram`, `none`, or a shared cache from `open_cache`.
      threads: prefetching threads; 0 decodes on demand.
      process_index: of this process.
      process_count: number of processes.

    Returns:
      An iterator over the local part of each batch, NumPy arrays with uint8 pixels; of
      bags with `bag`, all their patches.

    Raises:
      ValueError: no rows, or an indivisible batch.
    """
    positions = _positions(store, rows)
    local = _local_size(batch_size, process_index, process_count)
    if not len(positions):
        raise ValueError("There are no rows to evaluate.")
    missing = -len(positions) % batch_size
    padded = np.concatenate([positions, np.repeat(positions[-1], missing)])
    valid = np.arange(len(padded)) < len(positions)
    records = [(int(row), 0, bool(v)) for row, v in zip(padded, valid, strict=True)]
    records = grain.MapDataset.source(records).batch(batch_size)
    local_rows = slice(process_index * local, (process_index + 1) * local)
    gather = _Gather(
        _cache_of(store, image_size, cache),
        local_rows,
        omics=omics,
        graphs=graphs,
        images=images,
    )
    return _iterate(records.map(gather), threads, workers=0)
