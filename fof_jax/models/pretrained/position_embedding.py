"""Interpolation of learned position embeddings to another patch grid."""

import numpy as np
from jaxtyping import Float

METHODS = ("bicubic", "bilinear")
_A = -0.75  # coefficient of PyTorch's cubic kernel


def resize(
    position: Float[np.ndarray, "P D"],
    *,
    grid: tuple[int, int],
    to: tuple[int, int],
    method: str,
) -> Float[np.ndarray, "Q D"]:
    """Separable interpolation with half-pixel centers and replicated borders.

    Equal to torch.nn.functional.interpolate with align_corners=False and without
    antialiasing, which Hugging Face's ViT and DINOv2 use at other image sizes.

    Args:
      position: embeddings, row-major over the grid.
      grid: h, w of `position`.
      to: h, w of the result.
      method: one of `METHODS`.

    Raises:
      ValueError: unknown method, or a grid that does not have P patches.
    """
    if method not in METHODS:
        raise ValueError(
            f"init.pos_resize: unknown value {method!r}. Expected one of "
            f"{', '.join(METHODS)}."
        )
    if grid[0] * grid[1] != len(position):
        raise ValueError(
            f"position embedding: got {len(position)} rows, expected {grid[0]} x "
            f"{grid[1]}."
        )
    if grid == to:
        return position
    table = position.reshape(*grid, -1).astype(np.float64)
    rows, columns = (
        _interpolation_matrix(n, m, method) for n, m in zip(grid, to, strict=True)
    )
    out = np.einsum("yh,xw,hwd->yxd", rows, columns, table, optimize=True)
    return out.reshape(to[0] * to[1], -1).astype(np.float32)


def _interpolation_matrix(size: int, to: int, method: str) -> Float[np.ndarray, "m n"]:
    """Interpolation weights from `size` to `to` positions."""
    centers = (np.arange(to) + 0.5) * size / to - 0.5
    first = np.floor(centers).astype(int)
    taps = range(-1, 3) if method == "bicubic" else range(2)
    kernel = _cubic if method == "bicubic" else _linear
    out = np.zeros((to, size))
    for tap in taps:
        source = np.clip(first + tap, 0, size - 1)
        np.add.at(out, (np.arange(to), source), kernel(np.abs(centers - first - tap)))
    return out


def _linear(t: np.ndarray) -> np.ndarray:
    return 1 - t


def _cubic(t: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel of Keys (1981), for |t| <= 1 and 1 < |t| < 2."""
    inner = ((_A + 2) * t - (_A + 3)) * t * t + 1
    outer = ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A
    return np.where(t <= 1, inner, outer)
