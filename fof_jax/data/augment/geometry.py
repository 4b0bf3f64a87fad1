"""Crop, flips and elastic displacement as one field of coordinates, sampled once."""

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
    """Draw where each output pixel comes from: crop, flips, elastic displacement.

    With crop height h, top t and displacement d in pixels, row r of the output reads
    row t + (r + 1/2 + d) h / H - 1/2 of the input; a flip runs r backwards. Pixel
    centres are half-integers of the side, so that a whole-image crop is the identity.

    Args:
      key: the record's key.
      height: H of the image.
      width: W of the image.
      crop_area: range of the crop's share of the area, at most 1.
      crop_aspect: range of its width by height, relative to the image's.
      flip_horizontal: probability of left becoming right.
      flip_vertical: probability of top becoming bottom.
      elastic: largest displacement, as a share of the crop's side; 0 for none.
      elastic_cells: cells along a side of the grid that draws it.

    Returns:
      Rows and columns, in pixels of the input; up to the elastic displacement
      outside of it.
    """
    # One draw of all numbers: every call of the generator is compiled anew.
    k_frame, k_bend = jax.random.split(key)
    u_area, u_aspect, *u = jax.random.uniform(k_frame, (6,))
    area = crop_area[0] + u_area * (crop_area[1] - crop_area[0])
    # w h = area and w / h = aspect fit into the unit square for area <= aspect <=
    # 1 / area: narrowing the range keeps the area as drawn and needs no rejection.
    low = jnp.log(jnp.maximum(crop_aspect[0], area))
    high = jnp.log(jnp.minimum(crop_aspect[1], 1 / area))
    aspect = jnp.exp(low + u_aspect * (high - low))
    shares = [jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)]  # rows, columns
    shares = [jnp.minimum(share, 1.0) for share in shares]
    starts = [u[i] * (1 - shares[i]) for i in range(2)]
    flips = [u[2] < flip_vertical, u[3] < flip_horizontal]

    sides = (height, width)
    row, column = (
        _axis(side, shares[i], starts[i], flips[i]) for i, side in enumerate(sides)
    )
    rows = jnp.broadcast_to(row[:, None], sides)  # [H, W]
    columns = jnp.broadcast_to(column[None, :], sides)
    if elastic:
        bend = displacement(
            k_bend, amount=elastic, cells=elastic_cells, height=height, width=width
        )
        rows = rows + bend[0] * (height * shares[0])
        columns = columns + bend[1] * (width * shares[1])
    return rows, columns


def displacement(
    key: jax.Array, *, amount: Number, cells: int, height: int, width: int
) -> Float[Array, "2 H W"]:
    """Draw a smooth field: uniform cubic B-splines on a coarse random grid.

    The weights of a B-spline are positive and sum to 1, so no displacement exceeds
    `amount`; typical ones are about a quarter of it. The field has continuous second
    derivatives, so lines of tissue bend without kinks.

    Args:
      key: the draw.
      amount: largest displacement along an axis, as a share of the side.
      cells: grid cells along a side.
      height: H.
      width: W.

    Returns:
      Displacements of rows and columns, as shares of the side.
    """
    knots = cells + 3
    # Drawn flat: XLA takes five times as long to compile the draw of a 3-D shape.
    grid = jax.random.uniform(key, (2 * knots * knots,), minval=-1.0)
    grid = grid.reshape(2, knots, knots)
    down, across = _splines(height, cells), _splines(width, cells)
    precision = jax.lax.Precision.HIGHEST  # a TPU would round the field to bf16
    return amount * jnp.einsum(
        "hi,nij,wj->nhw", down, grid, across, precision=precision
    )


def warp(
    image: UInt8[Array, "H W C"] | Float[Array, "H W C"],
    where: tuple[Float[Array, "H W"], Float[Array, "H W"]],
) -> Float[Array, "H W C"]:
    """Sample an image bilinearly, once; outside of it lies its mirror image.

    Mirrored rather than repeated borders: a repeated border row shows as streaks.

    Args:
      image: 0-255.
      where: rows and columns to read, in pixels; at most a side outside.

    Returns:
      float32 in [0, 1].
    """
    height, width, channels = image.shape
    # Without a barrier XLA is free to compute the coordinates twice, rounded
    # differently for floor and for the weights: pixels whose coordinates lie at
    # integers then come out wrong by up to a whole step.
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


def _axis(side, share, start, flip):
    """Source coordinate of each output pixel along one axis, in pixels."""
    centre = jnp.arange(side, dtype=jnp.float32) + 0.5
    centre = jnp.where(flip, side - centre, centre)
    return start * side + centre * share - 0.5


def _mirror(position, last):
    position = jnp.abs(position)
    # The clip is for sides of a pixel or two, where a mirror image is too small.
    return jnp.clip(last - jnp.abs(last - position), 0, last)


def _splines(side: int, cells: int) -> Float[np.ndarray, "side knots"]:
    """Weights of the uniform cubic B-splines at the pixel centres of a side."""
    at = (np.arange(side) + 0.5) * (cells / side)
    distance = np.abs(at[:, None] - np.arange(-1, cells + 2)[None, :])
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
