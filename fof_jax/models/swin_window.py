"""Windows of SwinV2: partition, shift, mask and relative coordinates, for a fixed size.

Tables depend on sizes only and are computed with NumPy when a network is traced.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

PATCH = 4
# Mask value as published. With cosine attention of scale 100 it leaves masked pairs a
# weight above 0 only where logits differ by as much.
MASKED = -100.0
# Largest relative coordinate before its logarithm, and the logarithm's base.
_LARGEST = 8


class Window(NamedTuple):
    """Window of a map.

    Attributes:
      side: in tokens.
      shift: of every second block, in tokens; 0 where one window covers the map.
    """

    side: int
    shift: int


def window_of(grid: tuple[int, int], window: int) -> Window:
    """The window of a map: its smaller side, without shift, where that is no larger.

    Args:
      grid: h, w of the map.
      window: side that the encoder is built for.

    Source: methods/encoders.md, trap 9.
    """
    if min(grid) <= window:
        return Window(min(grid), 0)
    return Window(window, window // 2)


def fault_of(size: tuple[int, int], *, window: int, stages: int) -> str | None:
    """Why an image size has no agreed result, or None.

    Args:
      size: H, W in pixels.
      window: side of the windows, in tokens.
      stages: number of stages; between them maps are halved.

    Source: methods/encoders.md, "Published ImageNet weights by name" (last point).
    """
    if size[0] % PATCH or size[1] % PATCH:
        return f"it does not divide into patches of {PATCH} pixels"
    grid = size[0] // PATCH, size[1] // PATCH
    for stage in range(stages):
        h, w = grid
        if min(grid) < 2:
            return f"the map of stage {stage} is {h} x {w}, smaller than 2 x 2"
        side = window_of(grid, window).side
        if h % side or w % side:
            return (
                f"the map of stage {stage} is {h} x {w}, which windows of {side} do "
                "not divide"
            )
        if stage < stages - 1 and (h % 2 or w % 2):
            return f"the map of stage {stage} is {h} x {w}, which cannot be halved"
        grid = h // 2, w // 2
    return None


def sizes_that_fit(
    *, window: int, stages: int, near: int, count: int = 6
) -> tuple[int, ...]:
    """Sides of square images that fit, those nearest to `near` in ascending order."""
    step = PATCH * 2 ** (stages - 1)
    sides = range(step, 2 * near + 64 * step, step)
    fits = [s for s in sides if fault_of((s, s), window=window, stages=stages) is None]
    return tuple(sorted(sorted(fits, key=lambda s: abs(s - near))[:count]))


def partition(x: Any, window: int) -> Any:
    """Maps [B, H, W, C] to windows [B nW, w w, C], image-major; NumPy or JAX."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.swapaxes(2, 3).reshape(-1, window * window, c)


def reverse(windows: Any, window: int, grid: tuple[int, int]) -> Any:
    """The inverse of `partition`."""
    h, w = grid
    c = windows.shape[-1]
    x = windows.reshape(-1, h // window, w // window, window, window, c)
    return x.swapaxes(2, 3).reshape(-1, h, w, c)


def shift_mask(
    grid: tuple[int, int], window: int, shift: int
) -> Float[np.ndarray, "nW w2 w2"]:
    """0 where two tokens of a shifted window are neighbors on the map, else `MASKED`.

    Args:
      grid: h, w of the map.
      window, shift: in tokens.

    Source: Liu et al. 2021, Fig. 4; methods/encoders.md, trap 14.
    """
    bands = [
        np.searchsorted([n - window, n - shift], np.arange(n), side="right")
        for n in grid
    ]  # of the rolled map: 0 untouched, 1 and 2 before and after the seam
    region = 3 * bands[0][:, None] + bands[1][None, :]  # [H, W]
    of_token = partition(region[None, :, :, None], window)[..., 0]  # [nW, w2]
    differs = of_token[:, :, None] != of_token[:, None, :]
    return np.where(differs, MASKED, 0).astype(np.float32)


def coordinates(window: int, pretrained_window: int = 0) -> Float[np.ndarray, "d d 2"]:
    r"""Log-spaced relative coordinates of all offsets of a window, d = 2 w - 1.

    .. math:: sign(\delta) \log_2(1 + 8 |\delta| / (w - 1)) / \log_2 8

    Args:
      window: side w.
      pretrained_window: divides by this side - 1 if it is not 0.

    Returns:
      row and column coordinate of each offset, from -(w - 1) to w - 1.

    Source: Liu et al. 2022, Eq. (4); methods/encoders.md, trap 11.
    """
    offset = np.arange(1 - window, window, dtype=np.float32)
    rows, columns = np.meshgrid(offset, offset, indexing="ij")
    scaled = np.stack([rows, columns], axis=-1)
    scaled = scaled / np.float32((pretrained_window or window) - 1) * _LARGEST
    logarithm = np.log2(np.abs(scaled) + 1) / np.log2(_LARGEST)
    return (np.sign(scaled) * logarithm).astype(np.float32)


def position_index(window: int) -> Int[np.ndarray, "w2 w2"]:
    """Row of `coordinates`, flattened, of query minus key for each pair of tokens."""
    token = np.arange(window * window)
    row, column = token // window, token % window
    difference = [c[:, None] - c[None, :] + window - 1 for c in (row, column)]
    return difference[0] * (2 * window - 1) + difference[1]
