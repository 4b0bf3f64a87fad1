"""Decoded images of a store, kept in memory if there is room."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fof_jax.data.store import Store

CACHES = ("ram", "none")


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
class ImageCache:
    """Decoded images of a store at one size; `open_cache` makes it.

    Attributes:
      store: what it reads.
      image_size: S.
      pixels: the cache, [n, S, S, 3], or None.
      filled: which rows of `pixels` have been decoded, or None.
      natives: the cache where images are cut: each at its own size, or None before
        it is decoded; or no cache.
    """

    store: Store
    image_size: int
    pixels: UInt8[np.ndarray, "n S S 3"] | None = None
    filled: Bool[np.ndarray, " n"] | None = None
    natives: list[np.ndarray | None] | None = None

    @property
    def cached(self) -> bool:
        """True if images are decoded once, in this process."""
        return self.pixels is not None or self.natives is not None

    def read(
        self,
        rows: Int[np.ndarray, " B"],
        corners: Float[np.ndarray, "B 2"] | None = None,
    ) -> UInt8[np.ndarray, "B S S 3"]:
        """Images at the given positions of the store; safe in several threads.

        Args:
          rows: positions.
          corners: where each image is cut, as `images.fit_region` has it; None for
            whole images.

        Returns:
          Pixels, 0-255.
        """
        side = self.image_size
        if self.pixels is None or self.filled is None:
            out = np.empty((len(rows), side, side, 3), np.uint8)
            for k, i in enumerate(rows):
                corner = None if corners is None else tuple(corners[k].tolist())
                out[k] = self.store.fit(self._native(int(i)), int(i), side, corner)
            return out
        for i in rows[~self.filled[rows]].tolist():
            self.pixels[i] = self.store.fit(self.store.native(i), i, side, None)
            self.filled[i] = True  # after the pixels: another thread may look
        return self.pixels[rows]

    def _native(self, i: int) -> np.ndarray:
        if self.natives is None:
            return self.store.native(i)
        pixels = self.natives[i]
        if pixels is None:
            pixels = self.natives[i] = self.store.native(i)
        return pixels


def open_cache(store: Store, image_size: int, cache: str = "ram") -> ImageCache:
    """A reader that folds, training and evaluation can share.

    Args:
      store: what to read.
      image_size: side of the images.
      cache: `ram` decodes an image once, on first use, and keeps it as uint8 (at its
        own size where it will be cut); `none` decodes it each time.

    Returns:
      The reader.

    Raises:
      ValueError: a bad `cache`, or one that would take more than half of the
        memory that is available.
    """
    if cache not in CACHES:
        raise ValueError(f"data.cache={cache!r}: expected one of {', '.join(CACHES)}")
    if cache == "none":
        return ImageCache(store, image_size)
    cut = "crop" in (store.train_view, store.test_view)
    loose = cut and bool((store.sizes != image_size).any())
    shape = (len(store), image_size, image_size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    if loose:
        needed = 3 * int(store.sizes.astype(np.int64).prod(axis=1).sum())
    available = available_memory()
    if needed > available // 2:
        raise ValueError(
            f"data.cache='ram' needs {needed / 2**30:.1f} GiB for {len(store)} images "
            f"of {'their own size' if loose else f'{image_size}x{image_size}'}; "
            f"{available / 2**30:.1f} GiB are available "
            "and at most half is taken. Set --config.data.cache=none."
        )
    if loose:
        return ImageCache(store, image_size, natives=[None] * len(store))
    return ImageCache(
        store, image_size, np.empty(shape, np.uint8), np.zeros(shape[0], bool)
    )
