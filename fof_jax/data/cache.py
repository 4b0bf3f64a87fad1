"""Cache of decoded images of a store; `bags/cache.py` has that of bags."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from fof_jax.data import squares
from fof_jax.data.bags.cache import BagCache
from fof_jax.data.cores import usable_cores
from fof_jax.data.store import Store

CACHES = ("ram", "none")


def available_memory() -> int:
    """Available memory in bytes: the smaller of the machine's and the cgroup's."""
    limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):  # includes the page cache
                limits = [int(line.split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text().splitlines()
        )
        limits.append(limit - used + int(stat["inactive_file"]))  # reclaimable
    except (OSError, ValueError, KeyError):
        pass  # no cgroup v2, or no limit ("max")
    return min(limits)


def decoding_threads(config: ConfigDict) -> int:
    """Threads that decode images: `data.threads`, or one for each core where unset."""
    return config.data.threads or usable_cores()


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCache:
    """Decoded images of a store at one size; created by `open_cache`.

    Attributes:
      store: source of the images.
      image_size: S.
      pixels: cached images at S x S, or None.
      filled: True for the rows of `pixels` that are decoded, or None.
      natives: cached images at their stored sizes, for crops; an entry is None until
        it is decoded. None without such a cache.
    """

    store: Store
    image_size: int
    pixels: UInt8[np.ndarray, "n S S 3"] | None = None
    filled: Bool[np.ndarray, " n"] | None = None
    natives: list[np.ndarray | None] | None = None

    @property
    def cached(self) -> bool:
        """True if images are decoded only once, in this process."""
        return self.pixels is not None or self.natives is not None

    def inputs(
        self,
        rows: Int[np.ndarray, " B"],
        epoch: Int[np.ndarray, " B"],
        *,
        local: slice,
        seed: int | None,
    ) -> dict[str, UInt8[np.ndarray, "b S S 3"]]:
        """The images of a batch; thread-safe.

        Args:
          rows: positions of the global batch.
          epoch: of each row; keys random crops.
          local: rows of this process.
          seed: of random crops; None for evaluation.

        Returns:
          {"image": pixels of the local rows}.
        """
        rows, epoch = rows[local], epoch[local]
        return {"image": self.read(rows, self.corners(rows, epoch, seed))}

    def corners(
        self,
        rows: Int[np.ndarray, " B"],
        epoch: Int[np.ndarray, " B"],
        seed: int | None,
    ) -> Float[np.ndarray, "B 2"] | None:
        """Position of the crop of each row, see `inputs`; None for whole images."""
        options = self.store.options
        if seed is None:  # evaluation
            corner = options.test_corner
            return None if corner is None else np.tile(corner, (len(rows), 1))
        if options.train_view != "crop":
            return None
        keys = zip(rows.tolist(), epoch.tolist(), strict=True)
        return np.array([np.random.default_rng((seed, *key)).random(2) for key in keys])

    def read(
        self,
        rows: Int[np.ndarray, " B"],
        corners: Float[np.ndarray, "B 2"] | None = None,
    ) -> UInt8[np.ndarray, "B S S 3"]:
        """Reads images by row; thread-safe.

        Args:
          rows: positions in the store.
          corners: position of each crop, as in `squares.fit_region`; None for whole
            images.

        Returns:
          Pixels, 0-255.
        """
        side = self.image_size
        if self.pixels is None or self.filled is None:
            out = np.empty((len(rows), side, side, 3), np.uint8)
            for k, i in enumerate(rows):
                corner = None if corners is None else tuple(corners[k].tolist())
                out[k] = self._square(self._native(int(i)), int(i), corner)
            return out
        for i in rows[~self.filled[rows]].tolist():
            self.pixels[i] = self._square(self.store.native(i), i, None)
            self.filled[i] = True  # after the pixels, for concurrent readers
        return self.pixels[rows]

    def _square(
        self, pixels: np.ndarray, i: int, corner: squares.Corner | None
    ) -> np.ndarray:
        return self.store.options.square(
            pixels, self.image_size, name=self.store.images[i], corner=corner
        )

    def _native(self, i: int) -> np.ndarray:
        if self.natives is None:
            return self.store.native(i)
        pixels = self.natives[i]
        if pixels is None:
            pixels = self.natives[i] = self.store.native(i)
        return pixels


Cache = ImageCache | BagCache


def open_cache(store: Store, image_size: int, cache: str = "ram") -> Cache:
    """Opens a cache that folds, training and evaluation can share.

    Args:
      store: source of the images or bags.
      image_size: side of the images; unused for bags.
      cache: `ram` decodes each image once, on first use, and keeps it as uint8 (at its
        stored size if crops are read), or reads each bag once; `none` does so every
        time.

    Returns:
      The cache.

    Raises:
      ValueError: an unknown `cache`, or one that needs more than half of the
        available memory.
    """
    if cache not in CACHES:
        raise ValueError(
            f"data.cache={cache!r}: expected one of "
            f"{', '.join(CACHES)}, or device in training"
        )
    if store.bags is not None:
        if cache == "none":
            return BagCache(store)
        _require_memory(store.bags.nbytes, f"{len(store)} bags of patch features")
        return BagCache(store, [None] * len(store))
    if cache == "none":
        return ImageCache(store, image_size)
    crops = "crop" in (store.options.train_view, store.options.test_view)
    native_sizes = crops and bool((store.sizes != image_size).any())
    shape = (len(store), image_size, image_size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    if native_sizes:
        needed = 3 * int(store.sizes.astype(np.int64).prod(axis=1).sum())
    size = "their stored size" if native_sizes else f"{image_size}x{image_size}"
    _require_memory(needed, f"{len(store)} images of {size}")
    if native_sizes:
        return ImageCache(store, image_size, natives=[None] * len(store))
    return ImageCache(
        store, image_size, np.empty(shape, np.uint8), np.zeros(shape[0], bool)
    )


def _require_memory(needed: int, what: str) -> None:
    available = available_memory()
    if needed > available // 2:
        raise ValueError(
            f"data.cache='ram' needs {needed / 2**30:.1f} GiB for {what}; "
            f"{available / 2**30:.1f} GiB are available "
            "and at most half may be used. Set --config.data.cache=none."
        )
