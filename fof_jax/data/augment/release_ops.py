"""Geometric augmentations of the authors' code, as coordinate maps (item 45).

Each operation maps source coordinates to source coordinates, so that all together need
one resampling. The order on the image: 90-degree rotations; shift, scale and rotation;
one distortion; shuffled tiles. Parameters are those of the authors' transforms and of
albumentations 1.4.21. Their code repeats the same random numbers in every epoch and
worker (43); this one does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Number = float | int
Where = tuple[Float[Array, "H W"], Float[Array, "H W"]]

SHIFT, SCALE, DEGREES = 0.0625, 0.2, 45.0  # fraction of the side, factor 1 ±, ±
GRID_CELLS, GRID_LIMIT = 5, 0.3  # cells per side, their widths 1 ±
OPTICAL_LIMIT = 0.05  # of both radial coefficients
NOISE_TAPS, NOISE_SIGMA = 17, 50.0  # pixels, of the blur of the elastic noise
TILES = (3, 7, 11)  # per side


def rearrange(
    key: jax.Array,
    where: Where,
    *,
    height: int,
    width: int,
    rotate90: Number,
    affine: Number,
    distort: Number,
    shuffle: Number,
) -> Where:
    """Samples and composes the operations whose probability is not 0.

    Args:
      key: random key of the record.
      where: source rows and columns in pixels, inside of the image.
      height: H of the image.
      width: W; must equal H if `rotate90` is not 0.
      rotate90: probability of a rotation by 0, 90, 180 or 270 degrees.
      affine: probability of a shift by 6.25% of the side, a scale of 0.8-1.2 and a
        rotation by 45 degrees, at most.
      distort: probability of one of elastic noise, grid and optical distortion.
      shuffle: probability of shuffling 3 x 3, 7 x 7 or 11 x 11 tiles.

    Returns:
      Source rows and columns; at most one side outside, in the reflected image.

    Raises:
      ValueError: 90-degree rotations of an image that is not square.
    """
    if rotate90 and height != width:
        raise ValueError(
            f"augment.rotate90 requires square images; these are {height}x{width}."
        )
    k_select, k_tiles, k_move, k_bend = jax.random.split(key, 4)
    u = jax.random.uniform(k_select, (6,))
    sides = (height, width)
    # Coordinates map from output to source, so the last operation comes first.
    if shuffle:
        moved = _tiles(k_tiles, where, sides, u[0])
        where = _choose(u[1] < shuffle, moved, where)
    if distort:
        bent = _distorted(k_bend, where, sides, u[2])
        where = _choose(u[3] < distort, bent, where)
    if affine:
        turned = _affine(k_move, mirrored(where, sides), sides)
        where = _choose(u[4] < affine, turned, where)
    if rotate90:
        # One random number selects both whether and which rotation.
        quarter = jnp.floor(4 * u[5] / rotate90)
        where = _quarters(mirrored(where, sides), height, quarter)
    return where


def mirrored(where: Where, sides: tuple[int, int]) -> Where:
    """Reflects positions outside of the image to the inside."""
    rows, columns = (
        jnp.clip(side - 1 - jnp.abs(side - 1 - jnp.abs(at)), 0, side - 1)
        for at, side in zip(where, sides, strict=True)
    )
    return rows, columns


def _choose(condition, new: Where, old: Where) -> Where:
    rows, columns = (jnp.where(condition, n, o) for n, o in zip(new, old, strict=True))
    return rows, columns


def _quarters(where: Where, side: int, quarter) -> Where:
    """Rotates counterclockwise by 1, 2 or 3 quarters; other numbers do nothing."""
    row, column = where
    last = side - 1
    turns = [(column, last - row), (last - row, last - column), (last - column, row)]
    for k, turned in enumerate(turns, 1):
        where = _choose(quarter == k, turned, where)
    return where


def _affine(key, where: Where, sides: tuple[int, int]) -> Where:
    u = jax.random.uniform(key, (4,), minval=-1.0)
    angle, scale = u[0] * (np.pi * DEGREES / 180), 1 + SCALE * u[1]
    center = [(side - 1) / 2 for side in sides]
    down, across = (
        (at - middle - SHIFT * side * shift) / scale
        for at, middle, side, shift in zip(where, center, sides, u[2:], strict=True)
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * down - sin * across + center[0], sin * down + cos * across + center[1]


def _distorted(key, where: Where, sides: tuple[int, int], uniform) -> Where:
    """Applies one of three distortions with equal probability."""
    k_noise, k_numbers = jax.random.split(key)
    u = jax.random.uniform(k_numbers, (2 * GRID_CELLS + 1,), minval=-1.0)
    widths = 1 + GRID_LIMIT * u[:-1].reshape(2, GRID_CELLS)
    grid = tuple(_stretched(*p) for p in zip(where, sides, widths, strict=True))
    optical = _optical(where, sides, OPTICAL_LIMIT * u[-1])
    noise = _noise(k_noise, sides)
    shaken = (where[0] + noise[0], where[1] + noise[1])
    which = jnp.floor(3 * uniform)
    return _choose(which == 0, shaken, _choose(which == 1, grid, optical))


def _stretched(at, side: int, widths):
    """Grid distortion: maps equal cells to cells of the given widths."""
    cell = (at + 0.5) * (GRID_CELLS / side)
    total = sum(
        widths[i] * jnp.clip(cell - i, 0 if i else None, 1 if i < 4 else None)
        for i in range(GRID_CELLS)
    )
    return total * (side / jnp.sum(widths)) - 0.5


def _optical(where: Where, sides: tuple[int, int], k) -> Where:
    down, across = (at / side - 0.5 for at, side in zip(where, sides, strict=True))
    square = down * down + across * across
    factor = 1 + k * square + k * square * square
    height, width = sides
    return (down * factor + 0.5) * height, (across * factor + 0.5) * width


def _noise(key, sides: tuple[int, int]) -> Float[Array, "2 H W"]:
    """Blurred (2 z - 1) with standard normal z; its mean shifts by -1 pixel (45)."""
    at = np.arange(NOISE_TAPS) - NOISE_TAPS // 2
    taps = np.exp(-(at**2) / (2 * NOISE_SIGMA**2))
    taps = (taps / taps.sum()).astype(np.float32)
    field = 2 * jax.random.normal(key, (2 * sides[0] * sides[1],)) - 1
    field = field.reshape(2, *sides)
    for axis, side in enumerate(sides, 1):
        border = [(0, 0)] * 3
        border[axis] = (NOISE_TAPS // 2, NOISE_TAPS // 2)
        wide = jnp.pad(field, border, mode="symmetric")
        field = sum(
            (tap * jax.lax.slice_in_dim(wide, i, i + side, axis=axis))
            for i, tap in enumerate(taps)
        )
    return field


def _tiles(key, where: Where, sides: tuple[int, int], uniform) -> Where:
    """Permutes tiles; pixels beyond the last complete tile stay."""
    most = max(TILES)
    count = jnp.array(TILES)[jnp.int32(jnp.floor(len(TILES) * uniform))]
    every = jnp.arange(most * most)
    # A random permutation of the first count^2 tiles; the others sort last.
    random_keys = jax.random.uniform(key, (most * most,))
    order = jnp.argsort(jnp.where(every < count * count, random_keys, 2.0))
    tile = [side // count for side in sides]
    cell = [
        jnp.floor((at + 0.5) / side).astype(jnp.int32)
        for at, side in zip(where, tile, strict=True)
    ]
    inside = (cell[0] < count) & (cell[1] < count)
    number = jnp.where(inside, cell[0] * count + cell[1], 0)
    source = order[number]
    rows, columns = (
        jnp.where(inside, at + (to - old) * side, at)
        for at, to, old, side in zip(
            where, (source // count, source % count), cell, tile, strict=True
        )
    )
    return rows, columns
