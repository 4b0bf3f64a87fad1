"""Positions, shapes and rendering of nuclei."""

import dataclasses

import numpy as np
from jaxtyping import Float32

from fof_jax.data.datasets.phantom import random


@dataclasses.dataclass(frozen=True)
class Nuclei:
    """N nuclei as arrays; lengths in micrometres.

    Attributes:
      at: centers (x, y).
      axes: half axes (long, short).
      along: unit vector of the long axis.
      lobes: amplitudes of the second (sine) and third harmonic of the outline.
      dark: hematoxylin at the center, 1 for an ordinary nucleus.
      hollow: 0 for a uniform nucleus … 1 for a dark rim around a pale center.
    """

    at: Float32[np.ndarray, "n 2"]
    axes: Float32[np.ndarray, "n 2"]
    along: Float32[np.ndarray, "n 2"]
    lobes: Float32[np.ndarray, "n 2"]
    dark: Float32[np.ndarray, " n"]
    hollow: Float32[np.ndarray, " n"]

    def keep(self, rows: np.ndarray) -> "Nuclei":
        """Selects nuclei by a boolean or integer index."""
        return Nuclei(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def join(*parts: Nuclei) -> Nuclei:
    """Concatenates nuclei."""
    return Nuclei(
        *(
            np.concatenate([getattr(p, f.name) for p in parts])
            for f in dataclasses.fields(Nuclei)
        )
    )


def discs(at: Float32[np.ndarray, "n 2"], radius: float | np.ndarray) -> Nuclei:
    """Uniform discs of strength 1, for halos, cysts, lumina and blood."""
    n = len(at)
    axes = np.empty((n, 2), np.float32)
    axes[:] = np.broadcast_to(np.float32(radius), (n,))[:, None]
    along = np.zeros((n, 2), np.float32)
    along[:, 0] = 1
    zero = np.zeros((n, 2), np.float32)
    return Nuclei(at, axes, along, zero, np.ones(n, np.float32), zero[:, 0].copy())


def scatter(
    rng: np.random.Generator, *, field: float, spacing: float, jitter: float
) -> Float32[np.ndarray, "n 2"]:
    """Samples points of a jittered grid over a square field, in random order.

    Args:
      rng: random generator.
      field: side of the field in micrometers.
      spacing: side of a grid cell.
      jitter: 0 (a regular grid) … 1 (anywhere in the cell).
    """
    n = int(field / spacing) + 2
    axis = np.arange(n, dtype=np.float32)
    points = np.empty((n, n, 2), np.float32)
    points[..., 0] = axis[None, :]
    points[..., 1] = axis[:, None]
    u = rng.random((n, n, 2), dtype=np.float32) - np.float32(0.5)
    shift = rng.random(2, dtype=np.float32)
    points = (points - shift + u * np.float32(jitter)) * np.float32(spacing)
    flat = points.reshape(-1, 2)
    return flat[rng.permutation(len(flat))]


def stamp(
    canvas: Float32[np.ndarray, "side side"],
    shapes: Nuclei,
    um: float,
    *,
    grow: float = 1.0,
) -> None:
    """Renders shapes into `canvas` in place, with the maximum at each pixel.

    Args:
      canvas: strength per pixel.
      shapes: to render; edges are antialiased over one pixel.
      um: micrometers per pixel.
      grow: factor on both half axes.
    """
    side = canvas.shape[0]
    reach = shapes.axes[:, 0] * np.float32(grow * 1.3 / um) + np.float32(1.5)
    inside = (
        (shapes.at > -reach[:, None] * um)
        & (shapes.at < side * um + reach[:, None] * um)
    ).all(axis=1)
    # Groups shapes by size, so that patches are not sized for the largest.
    bucket = np.maximum(2, np.ceil(reach / 3) * 3).astype(np.int64)
    flat = canvas.reshape(-1)
    for r in np.unique(bucket[inside]):
        rows = inside & (bucket == r)
        values, index = _patches(shapes.keep(rows), int(r), side, um, grow)
        np.maximum.at(flat, index, values)


def _patches(
    shapes: Nuclei, r: int, side: int, um: float, grow: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values and flat canvas indices of the pixels covered by the shapes."""
    one = np.float32(1)
    center = shapes.at / np.float32(um) - np.float32(0.5)
    base = np.floor(center).astype(np.int32)
    offset = np.arange(-r, r + 1, dtype=np.int32)
    ix = base[:, 0, None] + offset  # [n, k]
    iy = base[:, 1, None] + offset
    dx = (ix - center[:, 0, None]).astype(np.float32)[:, None, :]
    dy = (iy - center[:, 1, None]).astype(np.float32)[:, :, None]
    c, s = (shapes.along[:, i, None, None] for i in (0, 1))
    half = shapes.axes * np.float32(grow / um)
    a, b = half[:, 0, None, None], half[:, 1, None, None]
    u = (dx * c + dy * s) / a
    v = (dy * c - dx * s) / b
    rr = u * u + v * v + np.float32(1e-6)
    rho = np.sqrt(rr)
    p, q = (shapes.lobes[:, i, None, None] for i in (0, 1))
    # sin 2t and cos 3t of the angle in the ellipse's frame, without an angle.
    outline = one + p * (2 * u * v / rr) + q * (u * (u * u - 3 * v * v) / (rr * rho))
    depth = (outline - rho) * np.sqrt(a * b)  # pixels inside the edge
    alpha = np.clip(depth + np.float32(0.5), 0, 1)
    # Pale center: the rim is about a fifth of the radius.
    middle = np.clip((outline - rho) * np.float32(2.2) - np.float32(0.3), 0, 1)
    value = alpha * shapes.dark[:, None, None]
    value = value * (one - shapes.hollow[:, None, None] * middle)
    ok = (
        (alpha > 0)
        & ((ix >= 0) & (ix < side))[:, None, :]
        & ((iy >= 0) & (iy < side))[:, :, None]
    )
    index = iy[:, :, None].astype(np.int64) * side + ix[:, None, :]
    return value[ok], index[ok]


def make(
    rng: np.random.Generator,
    at: Float32[np.ndarray, "n 2"],
    *,
    radius: float,
    spread: float,
    elongation: float,
    irregular: float,
    dark: float,
    uneven: float = 0.18,
    hollow: float = 0.0,
    along: Float32[np.ndarray, "n 2"] | None = None,
) -> Nuclei:
    """Samples nuclei at the given positions.

    Args:
      rng: random generator.
      at: centers in micrometers.
      radius: mean radius in micrometers.
      spread: coefficient of variation of the radius.
      elongation: mean ratio of long to short axis, 1 or more.
      irregular: amplitude of the outline's harmonics.
      dark: mean hematoxylin strength.
      uneven: maximum relative deviation of a nucleus from it.
      hollow: see `Nuclei`.
      along: long axes; random when None.
    """
    n = len(at)
    size = radius * np.clip(1 + spread * random.bell(rng, n), 0.6, 1.8)
    ratio = np.sqrt(1 + (elongation - 1) * random.uniform(rng, 0.5, 1.5, n))
    axes = np.stack([size * ratio, size / ratio], axis=1).astype(np.float32)
    turned = random.directions(rng, n) if along is None else along
    lobes = np.stack(
        [irregular * random.bell(rng, n), irregular * random.bell(rng, n)], axis=1
    )
    strength = dark * random.uniform(rng, 1 - uneven, 1 + uneven, n)
    return Nuclei(
        at=at,
        axes=axes,
        along=turned,
        lobes=np.clip(lobes, -0.3, 0.3).astype(np.float32),
        dark=strength.astype(np.float32),
        hollow=np.full(n, hollow, np.float32),
    )
