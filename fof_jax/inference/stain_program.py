"""Macenko stain normalization as a JAX program, for exported files.

`data/stain.py` is what training and this package's inference compute, with NumPy. An
exported file runs without this package, so that it holds the same steps as a program of
its own: uint8 [h, w, 3] of any size to the same, in float64, before resizing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, Int, UInt8

from fof_jax.data import stain

_SWEEPS = 8  # Jacobi converges quadratically: 3 x 3 matrices take 4 or 5


def lower(platforms: tuple[str, ...]) -> export.Exported:
    """Lowers `macenko` to StableHLO with symbolic height and width."""
    with jax.enable_x64(True):
        h, w = export.symbolic_shape("h, w")
        image = jax.ShapeDtypeStruct((h, w, 3), jnp.uint8)
        return export.export(jax.jit(macenko), platforms=list(platforms))(image)


def macenko(image: UInt8[Array, "h w 3"]) -> UInt8[Array, "h w 3"]:
    """`stain.macenko` without data-dependent shapes: rows are masked, not selected.

    Args:
      image: RGB, 0-255; traced with 64-bit types enabled.

    Returns:
      RGB, 0-255; equal to `stain.macenko` but for single levels where the last digit
      of float64 decides.
    """
    levels = -jnp.log((jnp.arange(256) + 1) / stain.LIGHT)
    flat = image.reshape(-1, 3)
    density = levels[flat]  # [n, 3]
    sampled = _sampled(image)
    tissue = sampled & (density >= stain.GLASS).all(axis=1)
    stains = _stains(density, tissue)  # [2, 3]
    gram = stains @ stains.T
    unmix = stains.T @ _inverse(gram)  # [3, 2], the pseudo-inverse
    amount = density @ unmix  # [n, 2]
    full = jnp.stack([_percentile(c, sampled, stain.FULL) for c in amount.T])
    usable = (
        (tissue.sum() >= stain.PIXELS)
        & (_condition(gram) <= stain.CONDITION)
        & (full > 0).all()
    )
    reference = jnp.asarray(stain.REFERENCE)
    change = unmix @ ((jnp.asarray(stain.REFERENCE_FULL) / full)[:, None] * reference)
    exponent = levels.astype(jnp.float32)[flat] @ -change.astype(jnp.float32)
    light = jnp.minimum(stain.LIGHT * jnp.exp(exponent), 255)
    light = jnp.where(usable, light, 0)  # NaN without an estimate
    normalized = light.astype(jnp.uint8).reshape(image.shape)
    return jnp.where(usable, normalized, image)


def _sampled(image: UInt8[Array, "h w 3"]) -> Bool[Array, " n"]:
    """Pixels of the grid from which stains are estimated."""
    h, w = image.shape[:2]
    pixels = jnp.asarray(h, jnp.float64) * jnp.asarray(w, jnp.float64)
    step = jnp.maximum(1, jnp.sqrt(pixels / stain.SAMPLE).astype(jnp.int32))
    rows, columns = jnp.arange(h) % step == 0, jnp.arange(w) % step == 0
    return (rows[:, None] & columns[None, :]).reshape(-1)


def _stains(
    density: Float[Array, "n 3"], tissue: Bool[Array, " n"]
) -> Float[Array, "2 3"]:
    """Densities of hematoxylin and eosin, from the rows where `tissue` is True."""
    weight = tissue[:, None].astype(density.dtype)
    count = jnp.maximum(tissue.sum(), 2)
    mean = (density * weight).sum(axis=0) / count
    centered = (density - mean[None]) * weight
    axes = _eigenvectors(centered.T @ centered / (count - 1))
    plane = axes[:, 1:]  # of the two largest eigenvalues
    plane = plane * jnp.where(plane.sum(axis=0) < 0, -1.0, 1.0)[None]
    along = density @ plane
    angles = jnp.arctan2(along[:, 1], along[:, 0])
    ends = jnp.stack(
        [_percentile(angles, tissue, q) for q in (stain.ANGLE, 100 - stain.ANGLE)]
    )
    stains = jnp.stack([jnp.cos(ends), jnp.sin(ends)], axis=1) @ plane.T
    return jnp.where(stains[0, 0] > stains[1, 0], stains, stains[::-1])


def _percentile(
    values: Float[Array, " n"], keep: Bool[Array, " n"], q: float
) -> Float[Array, ""]:
    """Percentile of the kept values, linear between neighbors as in NumPy."""
    ordered = jnp.sort(jnp.where(keep, values, jnp.inf))
    last: Int[Array, ""] = jnp.maximum(keep.sum() - 1, 0)
    position = q / 100 * last
    below = jnp.floor(position).astype(last.dtype)
    above = jnp.minimum(below + 1, last)
    low, high = ordered[below], ordered[above]
    return low + (high - low) * (position - below)


def _eigenvectors(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Eigenvectors in columns by ascending eigenvalue, by Jacobi rotations.

    `jnp.linalg.eigh` would tie the program to each platform's library.
    """
    vectors = jnp.eye(3, dtype=matrix.dtype)
    for _ in range(_SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            off = matrix[p, q]
            theta = 0.5 * jnp.arctan2(2 * off, matrix[q, q] - matrix[p, p])
            c, s = jnp.cos(theta), jnp.sin(theta)
            rotation = jnp.eye(3, dtype=matrix.dtype)
            rotation = rotation.at[p, p].set(c).at[q, q].set(c)
            rotation = rotation.at[p, q].set(s).at[q, p].set(-s)
            matrix = rotation.T @ matrix @ rotation
            vectors = vectors @ rotation
    return vectors[:, jnp.argsort(jnp.diagonal(matrix))]


def _inverse(matrix: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
    (a, b), (c, d) = matrix
    return jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)


def _condition(gram: Float[Array, "2 2"]) -> Float[Array, ""]:
    """Condition number of a 2 x 3 matrix, from its Gram matrix."""
    half = (gram[0, 0] + gram[1, 1]) / 2
    root = jnp.sqrt(((gram[0, 0] - gram[1, 1]) / 2) ** 2 + gram[0, 1] ** 2)
    return jnp.sqrt((half + root) / jnp.maximum(half - root, np.finfo(float).tiny))
