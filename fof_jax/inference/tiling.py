"""Images that are larger than what a model sees: tiles, and what they give stitched."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

OVERLAP = 0.25  # share of a tile that its neighbour sees too, at least

Corner = tuple[int, int]


def starts(length: int, side: int, overlap: float = OVERLAP) -> list[int]:
    """Where tiles begin along one axis: evenly, from border to border.

    Args:
      length: of the axis, pixels; at least `side`.
      side: of a tile.
      overlap: share of a tile that two neighbours have in common, at least; 0 … 1.
    """
    if length == side:
        return [0]
    count = 1 + math.ceil((length - side) / (side * (1 - overlap)))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def corners(
    height: int, width: int, side: int, overlap: float = OVERLAP
) -> list[Corner]:
    """Top and left of every tile of an image, row by row.

    Raises:
      ValueError: the image is smaller than a tile, or the overlap is no share.
    """
    if min(height, width) < side or not 0 <= overlap < 1:
        raise ValueError(
            f"tiles of {side} pixels with an overlap of {overlap} do not fit into "
            f"{height} x {width}; expected sides of at least {side} and 0 <= overlap "
            "< 1."
        )
    return [
        (top, left)
        for top in starts(height, side, overlap)
        for left in starts(width, side, overlap)
    ]


def window(side: int) -> Float[np.ndarray, "S S"]:
    """How much each pixel of a tile counts: a tent, so that no seam can be seen."""
    along = 1 - np.abs((np.arange(side) + 0.5) / side * 2 - 1)
    return np.minimum.outer(along, along)


def stitch(
    parts: Sequence[Float[np.ndarray, "S S"]],
    at: Sequence[Corner],
    shape: tuple[int, int],
) -> Float[np.ndarray, "H W"]:
    """Overlapping tiles to one map: their mean, weighted by `window`."""
    total, weight = np.zeros(shape), np.zeros(shape)
    for part, (top, left) in zip(parts, at, strict=True):
        side = part.shape[0]
        inside = slice(top, top + side), slice(left, left + side)
        total[inside] += window(side) * part
        weight[inside] += window(side)
    return total / weight
