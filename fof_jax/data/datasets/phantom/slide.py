"""Renders stain maps to RGB: staining, slide artifacts, camera noise."""

import math

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fof_jax.data.datasets.phantom import nuclei, random, structures
from fof_jax.data.datasets.phantom.patient import Stain

_ARTIFACTS, _CAMERA = 30, 31  # stream keys
# 255 x 10^-d in steps of 1/512, rounded, so that pow is equal on all machines.
_STEPS = 512
_TRANSMITTED = np.array(
    [round(255 * math.pow(10, -k / _STEPS)) for k in range(3 * _STEPS)], np.uint8
)
_BLOOD = (0.10, 0.62, 0.50)  # optical density of erythrocytes in R, G, B
_INKS = ((0.75, 0.45, 0.10), (0.70, 0.20, 0.55), (0.60, 0.60, 0.55))
_UNITS = 4096  # integer steps of one unit of stain, for exact sums


def _reference_tissue() -> tuple[np.ndarray, np.ndarray]:
    """Hematoxylin and eosin of a synthetic tissue with one eighth of nuclei."""
    u = random.stream(0).random((3, 64, 64), dtype=np.float32)
    nucleus = u[0] < np.float32(0.125)
    h = np.where(nucleus, np.float32(1), np.float32(0.1) + np.float32(0.1) * u[1])
    e = np.float32(0.3) + np.float32(0.6) * u[2]
    return h, e * np.where(nucleus, np.float32(0.45), np.float32(1))


_REFERENCE = _reference_tissue()


def standardize(
    values: Float32[np.ndarray, "side side"], *, mean: float, std: float
) -> Float32[np.ndarray, "side side"]:
    """Scales `values` to a mean and standard deviation, with a minimum of 0.01.

    So the color does not reveal the grade: the amount of stain is independent of the
    tissue. Sums are over integers, hence exact.
    """
    q = np.rint(values * np.float32(_UNITS)).astype(np.int64)
    n = q.size
    total, square = int(q.sum()), int((q * q).sum())
    spread = math.sqrt(max(square * n - total * total, 1)) / n
    scale = std * _UNITS / spread
    scaled = (q - total / n) * (scale / _UNITS) + mean
    return np.maximum(scaled, 0.01).astype(np.float32)


def render(
    hematoxylin: Float32[np.ndarray, "side side"],
    eosin: Float32[np.ndarray, "side side"],
    mask: Bool[np.ndarray, "side side"],
    *,
    stain: Stain,
    key: tuple[int, ...],
    um: float,
    artifacts: bool,
) -> tuple[UInt8[np.ndarray, "side side 3"], Bool[np.ndarray, "side side"]]:
    """Renders stained tissue by the Beer-Lambert law.

    Args:
      hematoxylin: amount per pixel, at any scale.
      eosin: likewise.
      mask: diagnostic structures.
      stain: stain of the slide.
      key: seed of artifacts and camera noise.
      um: micrometers per pixel.
      artifacts: adds blood, ink, folds and background, each to about one region of
        eight.

    Returns:
      The image, and `mask` without background pixels.
    """
    uptake = hematoxylin * (1 + np.float32(stain.bite) * np.minimum(hematoxylin, 1))
    h = standardize(uptake, mean=stain.mean_h, std=stain.std_h)
    e = standardize(eosin, mean=stain.mean_e, std=stain.std_e)
    side = h.shape[0]
    density = np.empty((3, side, side), np.float32)
    rng = random.stream(*key, _ARTIFACTS)
    present = rng.random(4) < 0.13
    exposure = _expose(h, e, stain)
    if artifacts and present[0]:
        fold = _fold(rng, side, um)
        h, e = h * fold, e * fold
    tissue = np.ones((side, side), np.float32)
    if artifacts and present[1]:
        tissue = _torn_edge(rng, side, um)
    blood, ink = None, None
    if artifacts and present[2]:
        blood = _hemorrhage(rng, side, um)
    if artifacts and present[3]:
        ink = _ink(rng, side, um)
    ink_color = _INKS[int(rng.integers(len(_INKS)))]
    for c in range(3):
        gain, shift = exposure[c]
        d = h * np.float32(stain.hematoxylin[c]) + e * np.float32(stain.eosin[c])
        d = np.maximum(d * np.float32(gain) + np.float32(shift), np.float32(0.01))
        if blood is not None:
            d = d * (1 - blood) + np.float32(_BLOOD[c]) * blood
        d = d * tissue + np.float32(stain.glass[c])
        if ink is not None:
            d = d + np.float32(ink_color[c]) * ink
        density[c] = _defocus(d, stain.focus, um)
    image = _levels(density).astype(np.int16)
    noise = random.stream(*key, _CAMERA).integers(-3, 4, image.shape, np.int16)
    image = np.clip(image + noise, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(image), mask & (tissue > 0.5)


def _levels(d: np.ndarray) -> np.ndarray:
    """Gray levels 0-255 of optical densities."""
    level = np.clip(np.rint(d * np.float32(_STEPS)), 0, 3 * _STEPS - 1)
    return _TRANSMITTED[level.astype(np.int32)]


def _moments(levels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of gray levels, by exact integer sums."""
    q = levels.astype(np.int64)
    n, total, square = q.size, int(q.sum()), int((q * q).sum())
    return total / n, math.sqrt(max(square * n - total * total, 1)) / n


def _expose(h: np.ndarray, e: np.ndarray, stain: Stain) -> list[tuple[float, float]]:
    """Fits gain and offset of the optical density of each channel.

    They match mean and standard deviation of the gray levels to those of a reference
    tissue with this stain, like the white balance of a scanner. Matching the stains is
    not sufficient, because transmission is not linear in them.
    """
    step = max(1, h.shape[0] // 96)
    h, e = h[::step, ::step], e[::step, ::step]
    ref_h = standardize(_REFERENCE[0], mean=stain.mean_h, std=stain.std_h)
    ref_e = standardize(_REFERENCE[1], mean=stain.mean_e, std=stain.std_e)
    exposure = []
    for stained in zip(stain.hematoxylin, stain.eosin, strict=True):
        v, w = np.float32(stained[0]), np.float32(stained[1])
        mean, std = _moments(_levels(ref_h * v + ref_e * w))
        d = h * v + e * w
        gain, shift = 1.0, 0.0
        for _ in range(6):
            now = d * np.float32(gain) + np.float32(shift)
            m, s = _moments(_levels(np.maximum(now, np.float32(0.01))))
            # The relative change of levels is -ln(10) per unit of density. The gain
            # pivots at the density of the mean level, near 0.25.
            ratio = min(1.3, max(0.75, std / s))
            shift = shift * ratio + 0.25 * (1 - ratio) + (m - mean) / (2.302585 * mean)
            gain *= ratio
        exposure.append((gain, shift))
    return exposure


def _defocus(d: np.ndarray, focus: float, um: float) -> np.ndarray:
    """Blurs by 3 x 3 binomial passes with a variance of up to 0.35 um^2."""
    passes = max(1, round(0.35 / (um * um)))
    w = np.float32(min(0.25, 0.35 * focus / (2 * um * um * passes)))
    for _ in range(passes):
        p = np.pad(d, 1, mode="edge")
        d = (1 - 2 * w) * p[1:-1] + w * (p[:-2] + p[2:])
        d = (1 - 2 * w) * d[:, 1:-1] + w * (d[:, :-2] + d[:, 2:])
    return d


def _line(rng: np.random.Generator, side: int) -> np.ndarray:
    """Signed distance in pixels from a random line near the center."""
    way = random.directions(rng, 1)[0]
    axis = np.arange(side, dtype=np.float32) - np.float32(side / 2)
    offset = np.float32(random.between(rng, -0.3, 0.3) * side)
    return axis[None, :] * way[0] + axis[:, None] * way[1] - offset


def _fold(rng: np.random.Generator, side: int, um: float) -> np.ndarray:
    """Tissue fold: factor on both stains, increased along a curved band."""
    bend = random.value_noise(rng, side, side / 3) - np.float32(0.5)
    away = np.abs(_line(rng, side) + bend * np.float32(side / 4))
    half = np.float32(random.between(rng, 4.0, 8.0) / um)
    return 1 + np.float32(0.7) * np.clip((half - away) / 2 + np.float32(0.5), 0, 1)


def _torn_edge(rng: np.random.Generator, side: int, um: float) -> np.ndarray:
    """Tissue mask: 0 on the background beyond a ragged edge in one corner."""
    way = random.directions(rng, 1)[0]
    axis = np.arange(side, dtype=np.float32) - np.float32(side / 2)
    along = axis[None, :] * way[0] + axis[:, None] * way[1]
    ragged = random.value_noise(rng, side, 14 / um) - np.float32(0.5)
    reach = np.float32(random.between(rng, 0.36, 0.5) * side)
    return np.clip(reach + ragged * np.float32(12 / um) - along, 0, 1)


def _hemorrhage(rng: np.random.Generator, side: int, um: float) -> np.ndarray:
    """Erythrocytes scattered over part of the field."""
    field = side * um
    at = nuclei.scatter(rng, field=field, spacing=7.0, jitter=1.0)
    coarse = random.value_noise(rng, side, side / 2.5)
    fine = random.value_noise(rng, side, side / 6.5)
    where = np.float32(0.6) * coarse + np.float32(0.4) * fine
    at = at[structures.lookup(where, at, um) > random.between(rng, 0.52, 0.64)]
    canvas = np.zeros((side, side), np.float32)
    nuclei.stamp(canvas, nuclei.discs(at, 3.1), um)
    return canvas * np.float32(0.8)


def _ink(rng: np.random.Generator, side: int, um: float) -> np.ndarray:
    """Ink of a marker pen along a line."""
    half = np.float32(random.between(rng, 5.0, 10.0) / um)
    streak = random.value_noise(rng, side, 5 / um)
    away = np.abs(_line(rng, side))
    edge = (half - away) / np.float32(3 / um)
    band = np.clip(edge + 0.5, 0, 1).astype(np.float32)
    return band * (np.float32(0.25) + np.float32(0.6) * streak)
