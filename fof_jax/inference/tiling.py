"""Overlapping tiles of large images, and stitching of their maps."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

OVERLAP = 0.25  # minimum overlap of neighboring tiles, as a fraction of a tile

Corner = tuple[int, int]


def starts(length: int, side: int, overlap: float = OVERLAP) -> list[int]:
    """Evenly spaced tile positions along one axis, from border to border.

    Args:
      length: of the axis, in pixels; at least `side`.
      side: of a tile.
      overlap: minimum overlap of neighboring tiles, as a fraction of a tile.
    """
    if length == side:
        return [0]
    count = 1 + math.ceil((length - side) / (side * (1 - overlap)))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def corners(
    height: int, width: int, side: int, overlap: float = OVERLAP
) -> list[Corner]:
    """Top and left of every tile of an image, in row-major order.

    Raises:
      ValueError: the image is smaller than a tile, or an overlap outside [0, 1).
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
    """Blending weights of a tile's pixels: a tent, which avoids visible seams."""
    tent = 1 - np.abs((np.arange(side) + 0.5) / side * 2 - 1)
    return np.minimum.outer(tent, tent)


def stitch(
    parts: Sequence[Float[np.ndarray, "S S"]],
    corners: Sequence[Corner],
    shape: tuple[int, int],
) -> Float[np.ndarray, "H W"]:
    """Blends the maps of overlapping tiles: mean weighted by `window`."""
    total, weight = np.zeros(shape), np.zeros(shape)
    for part, (top, left) in zip(parts, corners, strict=True):
        side = part.shape[0]
        inside = slice(top, top + side), slice(left, left + side)
        total[inside] += window(side) * part
        weight[inside] += window(side)
    return total / weight
