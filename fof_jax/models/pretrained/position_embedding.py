"""Learned position embeddings of one grid of patches, resized to another."""

import numpy as np
from jaxtyping import Float

METHODS = ("bicubic", "bilinear")
_A = -0.75  # of the cubic kernel, PyTorch's


def resize(
    position: Float[np.ndarray, "P D"],
    *,
    grid: tuple[int, int],
    to: tuple[int, int],
    method: str,
) -> Float[np.ndarray, "Q D"]:
    """Separable interpolation with half-pixel centres and replicated borders.

    What torch.nn.functional.interpolate does with align_corners=False, and so Hugging
    Face's ViT and DINOv2 at another image size; nothing is smoothed on the way down.

    Args:
      position: row-major over the grid.
      grid: h, w of it.
      to: h, w of the result.
      method: one of `METHODS`.

    Raises:
      ValueError: the method is not known, or the grid does not have P patches.
    """
    if method not in METHODS:
        raise ValueError(
            f"init.pos_resize: {method!r} is not known. Expected one of "
            f"{', '.join(METHODS)}."
        )
    if grid[0] * grid[1] != len(position):
        raise ValueError(
            f"position embedding: {len(position)} rows are no grid of {grid[0]} x "
            f"{grid[1]}."
        )
    if grid == to:
        return position
    table = position.reshape(*grid, -1).astype(np.float64)
    rows, columns = (_weights(n, m, method) for n, m in zip(grid, to, strict=True))
    out = np.einsum("yh,xw,hwd->yxd", rows, columns, table, optimize=True)
    return out.reshape(to[0] * to[1], -1).astype(np.float32)


def _weights(size: int, to: int, method: str) -> Float[np.ndarray, "m n"]:
    """Weight of each of `size` places for each of `to` places."""
    centres = (np.arange(to) + 0.5) * size / to - 0.5
    first = np.floor(centres).astype(int)
    reach = range(-1, 3) if method == "bicubic" else range(2)
    kernel = _cubic if method == "bicubic" else _linear
    out = np.zeros((to, size))
    for step in reach:
        place = np.clip(first + step, 0, size - 1)
        np.add.at(out, (np.arange(to), place), kernel(np.abs(centres - first - step)))
    return out


def _linear(t: np.ndarray) -> np.ndarray:
    return 1 - t


def _cubic(t: np.ndarray) -> np.ndarray:
    """Keys 1981, the two branches |t| <= 1 and 1 < |t| < 2."""
    near = ((_A + 2) * t - (_A + 3)) * t * t + 1
    far = ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A
    return np.where(t <= 1, near, far)
