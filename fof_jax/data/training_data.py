"""What a model keeps of its training images: colors, tissue, and which they were."""

import dataclasses
import hashlib
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fof_jax.data import images
from fof_jax.data.store import Store

TISSUE_CHROMA = 15  # of 255: max - min of R, G, B of a stained pixel is larger
_SIDE = 256  # of the sample of pixels that is measured
_DIGITS = 16  # of a SHA-256, enough to tell images apart
# `appearance` and `digest` of the images of a store by row: each is in the training
# rows of all folds but one.
_measured: "weakref.WeakKeyDictionary[Store, dict[int, tuple[np.ndarray, str]]]" = (
    weakref.WeakKeyDictionary()
)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Of the images that one fold or several were trained on.

    Attributes:
      low, high: range over images of mean R, G and B (0-255) and fraction of tissue.
      digests: `digest` of each image.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    digests: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        return {
            "low": [round(value, 4) for value in self.low],
            "high": [round(value, 4) for value in self.high],
            "images": sorted(self.digests),
        }


def from_json(document: Any) -> TrainingData | None:
    """Reads `TrainingData.to_json`; None where an earlier version wrote none."""
    if not document:
        return None
    return TrainingData(
        low=tuple(map(float, document["low"])),
        high=tuple(map(float, document["high"])),
        digests=frozenset(document["images"]),
    )


def measure(store: Store, rows: Sequence[int] | np.ndarray) -> TrainingData:
    """Measures the training images of a fold.

    Args:
      store: its images are taken as stored, before stain normalization.
      rows: positions of the training images.
    """
    known = _measured.setdefault(store, {})
    for row in map(int, rows):
        if row not in known:
            pixels = images.decode(store.encoded(row))
            known[row] = appearance(pixels), digest(pixels)
    appearances, digests = zip(*(known[int(row)] for row in rows), strict=True)
    return TrainingData(
        low=tuple(np.min(appearances, axis=0).tolist()),
        high=tuple(np.max(appearances, axis=0).tolist()),
        digests=frozenset(digests),
    )


def union(parts: Iterable[TrainingData | None]) -> TrainingData | None:
    """Of the folds of an ensemble; None if one of them is unknown."""
    known = list(parts)
    if not known or None in known:
        return None
    folds = [part for part in known if part is not None]
    return TrainingData(
        low=tuple(min(values) for values in zip(*(f.low for f in folds), strict=True)),
        high=tuple(
            max(values) for values in zip(*(f.high for f in folds), strict=True)
        ),
        digests=frozenset().union(*(f.digests for f in folds)),
    )


def appearance(pixels: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "4"]:
    """Mean R, G and B, and the fraction of pixels colored as stained tissue."""
    step = max(1, max(pixels.shape[:2]) // _SIDE)
    sample = pixels[::step, ::step].reshape(-1, 3).astype(np.float64)
    tissue = (np.ptp(sample, axis=1) > TISSUE_CHROMA).mean()
    return np.array([*sample.mean(axis=0), tissue])


def digest(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Identifies an image by its pixels, in whichever file and format they are."""
    hasher = hashlib.sha256(str(pixels.shape).encode())
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.hexdigest()[:_DIGITS]
