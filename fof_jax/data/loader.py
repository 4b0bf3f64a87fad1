"""Batches from a store, by Grain: the step alone fixes the position in the data."""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int, UInt8

from fof_jax.data.store import Store
from fof_jax.shapes import Batch

CACHES = ("ram", "none")
_log = logging.getLogger(__name__)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in n records; what is left over is not drawn in that epoch."""
    return n // batch_size


def available_memory() -> int:
    """Bytes that this process may still take: of the machine and of its container."""
    figures = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):  # counts what the page cache holds
                figures = [int(line.split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text().splitlines()
        )
        figures.append(limit - used + int(stat["inactive_file"]))  # given back at need
    except (OSError, ValueError, KeyError):
        pass  # no container, or one without a limit ("max")
    return min(figures)


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Decoded images of a store at one size; `open_reader` makes it.

    Attributes:
      store: what it reads.
      image_size: S.
      pixels: the cache, [n, S, S, 3], or None.
      filled: which rows of `pixels` have been decoded, or None.
    """

    store: Store
    image_size: int
    pixels: UInt8[np.ndarray, "n S S 3"] | None = None
    filled: np.ndarray | None = None

    def read(self, rows: Int[np.ndarray, " B"]) -> UInt8[np.ndarray, "B S S 3"]:
        """Images at the given positions of the store; safe in several threads."""
        if self.pixels is None or self.filled is None:
            side = self.image_size
            out = np.empty((len(rows), side, side, 3), np.uint8)
            for k, i in enumerate(rows):
                out[k] = self.store.read(int(i), side)
            return out
        for i in rows[~self.filled[rows]]:
            self.pixels[i] = self.store.read(int(i), self.image_size)
            self.filled[i] = True  # after the pixels: another thread may look
        return self.pixels[rows]


def open_reader(store: Store, image_size: int, cache: str = "ram") -> Reader:
    """A reader that folds, training and evaluation can share.

    Args:
      store: what to read.
      image_size: side of the images.
      cache: `ram` decodes an image once, on first use, and keeps it as uint8;
        `none` decodes it each time.

    Returns:
      The reader.

    Raises:
      ValueError: a bad `cache`, or one that would take more than half of the
        memory that is available.
    """
    if cache not in CACHES:
        raise ValueError(f"data.cache={cache!r}: expected one of {', '.join(CACHES)}")
    if cache == "none":
        return Reader(store, image_size)
    shape = (len(store), image_size, image_size, 3)
    needed, available = int(np.prod(shape, dtype=np.int64)), available_memory()
    if needed > available // 2:
        raise ValueError(
            f"data.cache='ram' needs {needed / 2**30:.1f} GiB for {len(store)} images "
            f"of {image_size}x{image_size}; {available / 2**30:.1f} GiB are available "
            "and at most half is taken. Set --config.data.cache=none."
        )
    return Reader(
        store, image_size, np.empty(shape, np.uint8), np.zeros(shape[0], bool)
    )


def _reader(store: Store, image_size: int, cache: str | Reader) -> Reader:
    if isinstance(cache, str):
        return open_reader(store, image_size, cache)
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

    reader: Reader

    def __call__(self, drawn: tuple[Any, Any, Any]) -> dict[str, np.ndarray]:
        rows, epoch, valid = (np.asarray(part) for part in drawn)
        store = self.reader.store
        return {
            "image": self.reader.read(rows),
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
    cache: str | Reader = "ram",
    workers: int = 0,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Shuffled batches, `steps_per_epoch(len(rows), batch_size)` an epoch.

    Every epoch is shuffled anew and no batch crosses an epoch. Shuffled first, then
    dealt out to the processes: their parts of a step make up the same set of records
    for any number of processes. Batches depend on seed, rows and step alone.

    Args:
      store: what to read.
      rows: positions in the store that may be drawn.
      batch_size: of the global batch.
      epochs: to run through.
      seed: of the shuffle, at least 0.
      image_size: side of the images.
      start_step: steps that have been made already.
      cache: `ram`, `none`, or a reader from `open_reader` to share.
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
    if workers and reader.pixels is not None:
        _log.info("data.cache='ram': workers=%d are not needed, none start", workers)
        workers = 0
    # Grain shuffles epoch e with seed + e: neighbouring seeds would share epochs.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = grain.MapDataset.source(positions.tolist()).shuffle(seed=mixed)
    drawn = drawn[: steps * batch_size].repeat(epochs)
    drawn = drawn.map_with_index(_Dated(steps * batch_size))
    drawn = drawn[process_index::process_count].batch(local, drop_remainder=True)
    return _iterate(drawn[start_step:].map(_Gather(reader)), threads, workers)


def eval_batches(
    store: Store,
    rows: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    image_size: int,
    cache: str | Reader = "ram",
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
      cache: `ram`, `none`, or a reader from `open_reader` to share.
      threads: that decode ahead; 0 decodes on demand.
      process_index: of this process.
      process_count: their number; process p has rows p, p + count, … of a batch.

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
    drawn = grain.MapDataset.source(records)[process_index::process_count]
    batches = drawn.batch(local).map(_Gather(_reader(store, image_size, cache)))
    return _iterate(batches, threads, workers=0)
