"""Reproducible random numbers and noise, bitwise equal on all machines.

The phantom only uses operations that IEEE 754 rounds exactly (+ - * / sqrt,
comparisons, integer sums). Transcendental functions and float reductions differ in the
last bits between processors, so directions and densities come from rounded tables, and
sums are taken over integers.
"""

import math

import numpy as np
from jaxtyping import Float, Float32

# Unit vectors in half-degree steps, rounded to hide differences between libm versions.
_STEPS = 720
DIRECTIONS = np.array(
    [
        [round(math.cos(math.tau * k / _STEPS), 6) for k in range(_STEPS)],
        [round(math.sin(math.tau * k / _STEPS), 6) for k in range(_STEPS)],
    ],
    np.float32,
).T  # [720, 2] as (x, y)


def stream(*key: int) -> np.random.Generator:
    """Random generator for a tuple of non-negative integers.

    Each part of a region has its own stream, so omitting one does not change the rest.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def uniform(
    rng: np.random.Generator, low: float, high: float, size: int
) -> Float32[np.ndarray, " n"]:
    """Samples `size` float32 values in [low, high)."""
    u = rng.random(size, dtype=np.float32)
    return np.float32(low) + np.float32(high - low) * u


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Samples a float64 in [low, high)."""
    return low + (high - low) * float(rng.random())


def bell(rng: np.random.Generator, size: int) -> Float32[np.ndarray, " n"]:
    """Samples approximately normal values: mean 0, variance 1, within ±3.47.

    Sums four uniforms in a fixed order, because NumPy's normal calls libm in its tails.
    """
    u = rng.random((4, size), dtype=np.float32)
    return ((u[0] + u[1]) + (u[2] + u[3]) - np.float32(2)) * np.float32(1.7320508)


def pick(rng: np.random.Generator, counts: dict[int, int]) -> int:
    """Samples a key of `counts` in proportion to its count."""
    r = int(rng.integers(sum(counts.values())))
    for value, count in counts.items():
        r -= count
        if r < 0:
            return value
    raise AssertionError("unreachable: r is below the sum of the counts")


def count_around(rng: np.random.Generator, mean: float) -> int:
    """Samples an integer with the given mean: its floor or the next."""
    return int(mean) + int(rng.random() < mean - int(mean))


def directions(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "n 2"]:
    """Samples `size` unit vectors (x, y), uniformly."""
    return DIRECTIONS[rng.integers(_STEPS, size=size)]


def _weights(side: int, cell: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    at = (np.arange(side) + 0.5) / cell + shift
    low = at.astype(np.int64)
    t = (at - low).astype(np.float32)
    return low, t * t * (np.float32(3) - np.float32(2) * t)


def value_noise(
    rng: np.random.Generator, side: int, cell: float
) -> Float32[np.ndarray, "side side"]:
    """Smooth noise in [0, 1] with features of about `cell` pixels."""
    n = int(side / cell) + 3
    lattice = rng.random((n, n), dtype=np.float32)
    shift = rng.random(2)
    i, t = _weights(side, cell, float(shift[0]))
    t = t[:, None]
    rows = lattice[i] * (1 - t) + lattice[i + 1] * t  # [side, n]
    j, t = _weights(side, cell, float(shift[1]))
    return rows[:, j] * (1 - t) + rows[:, j + 1] * t


def streaks(
    rng: np.random.Generator,
    side: int,
    *,
    direction: Float[np.ndarray, " 2"],
    width: float,
    length: float,
    sway: float,
) -> Float32[np.ndarray, "side side"]:
    """Fiber-like noise in [0, 1].

    Args:
      rng: random generator.
      side: side in pixels.
      direction: unit vector (x, y) along the fibers.
      width: thickness of a fiber in pixels.
      length: correlation length along a fiber in pixels.
      sway: maximum lateral displacement of a fiber in pixels.

    Returns:
      Bilinear value noise on a stretched, warped lattice.
    """
    table = rng.random((256, 256), dtype=np.float32)
    warp = value_noise(rng, side, length)
    c, s = np.float32(direction[0]), np.float32(direction[1])
    axis = np.arange(side, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    along = (x * c + y * s) / np.float32(length)
    across = (y * c - x * s + (warp - np.float32(0.5)) * np.float32(2 * sway)) / (
        np.float32(width)
    )
    fi, fj = np.floor(along), np.floor(across)
    t, u = along - fi, across - fj
    t = t * t * (np.float32(3) - np.float32(2) * t)
    i, j = fi.astype(np.int32) & 255, fj.astype(np.int32) & 255
    flat = table.ravel()
    i1, j1 = (i + 1) & 255, (j + 1) & 255
    i, i1 = i * 256, i1 * 256
    near = flat[i + j] * (1 - u) + flat[i + j1] * u
    far = flat[i1 + j] * (1 - u) + flat[i1 + j1] * u
    return near * (1 - t) + far * t
