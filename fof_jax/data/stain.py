"""Macenko stain normalization (ISBI 2009)."""

import numpy as np
from jaxtyping import Float, UInt8

STAIN_RULES = ("none", "macenko")
# Constants of the method: transmitted light, optical density below which a pixel is
# background, percentile of the angles of the two stains, percentile of the density.
LIGHT, GLASS, ANGLE, FULL = 240.0, 0.15, 1.0, 99.0
# Reference of the method: densities of hematoxylin and eosin in RGB, and their maxima.
REFERENCE = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
REFERENCE_FULL = np.array([1.9705, 1.0308])
# No estimate with fewer tissue pixels or a larger condition number of the stains.
PIXELS, CONDITION = 100, 50.0
SAMPLE = 2**18


def normalize_stain(
    image: UInt8[np.ndarray, "H W 3"], rule: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Applies one of `STAIN_RULES`, the same in training and inference."""
    return macenko(image) if rule == "macenko" else image


def macenko(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Normalizes an H&E image to the reference stains.

    The stains are the extreme directions of optical density in its principal plane.
    Each pixel is decomposed into them, scaled to the maximum densities of the
    reference, and recomposed with the stains of the reference.

    Args:
      image: RGB, 0-255.

    Returns:
      RGB, 0-255; the image itself if it has too little tissue or only one stain.
    """
    levels = -np.log((np.arange(256) + 1) / LIGHT)
    # A quarter of a million pixels suffice to estimate directions and percentiles.
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / SAMPLE)))
    density = levels[image[::step, ::step].reshape(-1, 3)]  # [n, 3]
    stains = _stains(density[(density >= GLASS).all(axis=1)])
    if stains is None:
        return image
    unmix = np.linalg.pinv(stains)  # [3, 2]
    full = np.percentile(density @ unmix, FULL, axis=0)
    if not (full > 0).all():
        return image
    change = unmix @ ((REFERENCE_FULL / full)[:, None] * REFERENCE)  # [3, 3]
    flat = levels.astype(np.float32)[image.reshape(-1, 3)]
    light = LIGHT * np.exp(flat @ -change.astype(np.float32))
    return np.minimum(light, 255).astype(np.uint8).reshape(image.shape)


def _stains(tissue: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "2 3"] | None:
    """Estimates the densities of hematoxylin and eosin; None if ill-conditioned."""
    if len(tissue) < PIXELS:
        return None
    _, axes = np.linalg.eigh(np.cov(tissue.T))
    plane = axes[:, 1:]  # of the two largest eigenvalues
    # Eigenvectors have arbitrary signs: orient both axes towards the tissue, so that
    # angles do not wrap around.
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    along = tissue @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, (ANGLE, 100 - ANGLE))
    stains = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T  # [2, 3]
    if np.linalg.cond(stains) > CONDITION:
        return None
    # Hematoxylin absorbs more red than eosin does.
    return stains if stains[0, 0] > stains[1, 0] else stains[::-1]
