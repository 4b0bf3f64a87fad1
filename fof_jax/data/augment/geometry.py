"""Geometric augmentation: crop, flips and elastic deformation in one resampling."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Number = float | int


def coordinates(
    key: jax.Array,
    *,
    height: int,
    width: int,
    crop_area: tuple[Number, Number],
    crop_aspect: tuple[Number, Number],
    flip_horizontal: Number,
    flip_vertical: Number,
    elastic: Number,
    elastic_cells: int,
) -> tuple[Float[Array, "H W"], Float[Array, "H W"]]:
    """Samples source coordinates: crop, flips and elastic deformation.

    With crop height h, top t and displacement d in pixels, row r of the output reads
    row t + (r + 1/2 + d) h / H - 1/2 of the input; a flip reverses r. Pixel
    centers are at half-integers, so that a crop of the whole image is the identity.

    Args:
      key: random key of the record.
      height: H of the image.
      width: W of the image.
      crop_area: range of the crop's area as a fraction of the image's, at most 1.
      crop_aspect: range of the aspect ratio, relative to the image's.
      flip_horizontal: probability of a left-right flip.
      flip_vertical: probability of a top-bottom flip.
      elastic: maximum displacement as a fraction of the crop's side; 0 for none.
      elastic_cells: cells per side of the displacement grid.

    Returns:
      Rows and columns in pixels of the input; they exceed it by at most the elastic
      displacement.
    """
    # A single call for all random numbers shortens compilation.
    k_frame, k_elastic = jax.random.split(key)
    u_area, u_aspect, *u = jax.random.uniform(k_frame, (6,))
    area = crop_area[0] + u_area * (crop_area[1] - crop_area[0])
    # w h = area and w / h = aspect fit into the unit square for area <= aspect <=
    # 1 / area: narrowing the range avoids rejection sampling and keeps the area.
    low = jnp.log(jnp.maximum(crop_aspect[0], area))
    high = jnp.log(jnp.minimum(crop_aspect[1], 1 / area))
    aspect = jnp.exp(low + u_aspect * (high - low))
    sizes = [jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)]  # rows, columns
    sizes = [jnp.minimum(size, 1.0) for size in sizes]
    starts = [u[i] * (1 - sizes[i]) for i in range(2)]
    flips = [u[2] < flip_vertical, u[3] < flip_horizontal]

    sides = (height, width)
    row, column = (
        _axis(side, sizes[i], starts[i], flips[i]) for i, side in enumerate(sides)
    )
    rows = jnp.broadcast_to(row[:, None], sides)  # [H, W]
    columns = jnp.broadcast_to(column[None, :], sides)
    if elastic:
        offset = displacement(
            k_elastic, amount=elastic, cells=elastic_cells, height=height, width=width
        )
        rows = rows + offset[0] * (height * sizes[0])
        columns = columns + offset[1] * (width * sizes[1])
    return rows, columns


def displacement(
    key: jax.Array, *, amount: Number, cells: int, height: int, width: int
) -> Float[Array, "2 H W"]:
    """Samples a smooth displacement field: cubic B-splines on a coarse random grid.

    B-spline weights are positive and sum to 1, so displacements do not exceed
    `amount`; typical ones are about a quarter of it. Second derivatives are
    continuous.

    Args:
      key: random key.
      amount: maximum displacement along an axis as a fraction of the side.
      cells: grid cells per side.
      height: H.
      width: W.

    Returns:
      Displacements of rows and columns as fractions of the side.
    """
    knots = cells + 3
    # Sampled flat: XLA takes five times as long to compile a 3-D shape.
    grid = jax.random.uniform(key, (2 * knots * knots,), minval=-1.0)
    grid = grid.reshape(2, knots, knots)
    down, across = _splines(height, cells), _splines(width, cells)
    precision = jax.lax.Precision.HIGHEST  # TPUs would otherwise round to bf16
    return amount * jnp.einsum(
        "hi,nij,wj->nhw", down, grid, across, precision=precision
    )


def warp(
    image: UInt8[Array, "H W C"] | Float[Array, "H W C"],
    where: tuple[Float[Array, "H W"], Float[Array, "H W"]],
) -> Float[Array, "H W C"]:
    """Resamples an image bilinearly, with reflected borders.

    Reflected rather than repeated, because repeated borders show as streaks.

    Args:
      image: 0-255.
      where: source rows and columns in pixels; at most one side outside of the image.

    Returns:
      float32 in [0, 1].
    """
    height, width, channels = image.shape
    # Without a barrier XLA may compute the coordinates twice, with different rounding
    # for floor and for the weights, which is off by up to a pixel near integers.
    rows, columns = jax.lax.optimization_barrier(where)
    rows, columns = _mirror(rows, height - 1), _mirror(columns, width - 1)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    bottom = jnp.minimum(top + 1, height - 1)
    beside = jnp.minimum(left + 1, width - 1)
    flat = image.reshape(height * width, channels)

    def read(row, column):
        pixels = flat.at[row * width + column].get(mode="promise_in_bounds")
        return pixels.astype(jnp.float32)

    upper = (1 - right) * read(top, left) + right * read(top, beside)
    lower = (1 - right) * read(bottom, left) + right * read(bottom, beside)
    return ((1 - down) * upper + down * lower) / 255


def warp_labels(
    labels: UInt8[Array, "H W"],
    where: tuple[Float[Array, "H W"], Float[Array, "H W"]],
) -> UInt8[Array, "H W"]:
    """Resamples a label map by nearest neighbors, with reflected borders.

    Args:
      labels: of the pixels of the image.
      where: as in `warp`.
    """
    height, width = labels.shape
    rows, columns = (
        jnp.round(_mirror(position, side - 1)).astype(jnp.int32)
        for position, side in zip(where, (height, width), strict=True)
    )
    flat = labels.reshape(height * width)
    return flat.at[rows * width + columns].get(mode="promise_in_bounds")


def _axis(side, size, start, flip):
    """Source coordinates of the output pixels along one axis, in pixels."""
    center = jnp.arange(side, dtype=jnp.float32) + 0.5
    center = jnp.where(flip, side - center, center)
    return start * side + center * size - 0.5


def _mirror(position, last):
    position = jnp.abs(position)
    # Clips for sides of one or two pixels, where one reflection does not suffice.
    return jnp.clip(last - jnp.abs(last - position), 0, last)


def _splines(side: int, cells: int) -> Float[np.ndarray, "side knots"]:
    """Weights of uniform cubic B-splines at the pixel centers of a side."""
    at = (np.arange(side) + 0.5) * (cells / side)
    distance = np.abs(at[:, None] - np.arange(-1, cells + 2)[None, :])
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
