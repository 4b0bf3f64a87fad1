"""Crop, flips and elastic displacement as one field of coordinates, sampled once."""

import jax
import jax.numpy as jnp
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
    k_area, k_aspect, k_top, k_left, k_flip, k_bend = jax.random.split(key, 6)
    area = _uniform(k_area, *crop_area)
    # w h = area and w / h = aspect fit into the unit square for area <= aspect <=
    # 1 / area: narrowing the range keeps the area as drawn and needs no rejection.
    low = jnp.log(jnp.maximum(crop_aspect[0], area))
    high = jnp.log(jnp.minimum(crop_aspect[1], 1 / area))
    aspect = jnp.exp(low + jax.random.uniform(k_aspect) * (high - low))
    shares = jnp.sqrt(jnp.stack([area / aspect, area * aspect]))  # [rows, columns]
    shares = jnp.minimum(shares, 1.0)
    starts = jnp.stack([jax.random.uniform(k_top), jax.random.uniform(k_left)])
    starts = starts * (1 - shares)
    flips = jax.random.uniform(k_flip, (2,)) < jnp.array(
        [flip_vertical, flip_horizontal], jnp.float32
    )

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
    grid = jax.random.uniform(key, (2, cells + 3, cells + 3), minval=-1.0, maxval=1.0)
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
    # Without the barrier XLA computes the coordinates twice, rounded differently for
    # floor and for the weights: pixels at integer boundaries come out wrong.
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


def _uniform(key, low, high):
    return low + jax.random.uniform(key) * (high - low)


def _axis(side, share, start, flip):
    """Source coordinate of each output pixel along one axis, in pixels."""
    centre = jnp.arange(side, dtype=jnp.float32) + 0.5
    centre = jnp.where(flip, side - centre, centre)
    return start * side + centre * share - 0.5


def _mirror(position, last):
    position = jnp.abs(position)
    # The clip is for sides of a pixel or two, where a mirror image is too small.
    return jnp.clip(last - jnp.abs(last - position), 0, last)


def _splines(side: int, cells: int) -> Float[Array, "side knots"]:
    """Weights of the uniform cubic B-splines at the pixel centres of a side."""
    at = (jnp.arange(side, dtype=jnp.float32) + 0.5) * (cells / side)
    knot = jnp.arange(-1, cells + 2, dtype=jnp.float32)
    distance = jnp.abs(at[:, None] - knot[None, :])
    near = 2 / 3 - jnp.square(distance) * (1 - distance / 2)
    far = jnp.clip(2 - distance, 0, None) ** 3 / 6
    return jnp.where(distance < 1, near, far)
