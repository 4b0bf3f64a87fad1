"""Superpixels of a batch on the device: SLIC with fixed search windows."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SIDE = 256  # images are reduced to this before clustering
COLOR_SCALE = 50.0  # normalized pixels, about -1 … 1, to the range of L*a*b*


def superpixels(
    image: Float[Array, "B H W C"],
    *,
    count: int = 100,
    compactness: float = 20.0,
    iterations: int = 10,
) -> Int[Array, "B H W"]:
    """Clusters pixels by color and position from a regular grid of centers.

    The published code takes `fast_slic` with 100 components and compactness 10 of the
    whole region. Here a pixel can join the 9 centers around its cell of the grid, and
    parts of a superpixel are not merged afterwards, so that shapes are static and no
    label map has to be stored and augmented beside the image.

    Args:
      image: normalized pixels.
      count: of superpixels, rounded to a square number.
      compactness: weight of positions against colors.
      iterations: of the clustering.

    Returns:
      Labels 0 … g^2 - 1, g the rounded root of `count`.

    Raises:
      ValueError: the image has fewer pixels on a side than g.

    Source: methods/clat_pathgcn.md, "SLIC without fast_slic".
    """
    _, height, width, channels = image.shape
    grid = round(count**0.5)
    rows, columns = min(height, SIDE), min(width, SIDE)
    if grid < 1 or min(rows, columns) < grid:
        raise ValueError(
            f"superpixels: {grid} x {grid} for an image of {height} x {width} pixels, "
            f"expected 1 to {min(rows, columns)} on a side. Pass another count."
        )
    shape = (rows, columns, channels)
    row, column = np.mgrid[:rows, :columns]
    cell = np.stack([row * grid // rows, column * grid // columns], -1)
    # The 9 cells around each pixel's own; beyond the border its own again.
    around = cell[..., None, :] + np.array(
        [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    )
    inside = ((around >= 0) & (around < grid)).all(-1, keepdims=True)
    around = np.where(inside, around, cell[..., None, :])
    candidates = jnp.asarray(around[..., 0] * grid + around[..., 1])
    step = np.array([rows / grid, columns / grid])
    position = jnp.asarray((np.stack([row, column], -1) + 0.5) / step, jnp.float32)
    first = jnp.asarray(cell[..., 0] * grid + cell[..., 1])

    def of_one(pixels: Float[Array, "R S C"]) -> Int[Array, "R S"]:
        points = jnp.concatenate(
            [COLOR_SCALE * pixels, compactness * position], axis=-1
        )

        def assign(labels: jax.Array, _: None) -> tuple[jax.Array, None]:
            flat = points.reshape(-1, points.shape[-1])
            sums = jnp.zeros((grid**2, flat.shape[1])).at[labels.ravel()].add(flat)
            area = jnp.zeros(grid**2).at[labels.ravel()].add(1.0)
            centers = sums / jnp.maximum(area, 1)[:, None]
            distance = ((points[:, :, None] - centers[candidates]) ** 2).sum(-1)
            distance += jnp.where(area[candidates] > 0, 0, jnp.inf)
            nearest = distance.argmin(-1)[..., None]
            return jnp.take_along_axis(candidates, nearest, axis=-1)[..., 0], None

        return jax.lax.scan(assign, first, None, length=iterations)[0]

    reduced = jax.image.resize(
        jax.lax.stop_gradient(image), (len(image), *shape), "linear"
    )
    labels = jax.lax.map(of_one, reduced)
    up_row = np.arange(height) * rows // height
    up_column = np.arange(width) * columns // width
    return labels[:, up_row][:, :, up_column]
