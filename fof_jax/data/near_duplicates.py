"""Detects near-duplicate images of different patients by perceptual hash."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt64
from PIL import Image

from fof_jax.data import image_rules, images

_THUMB = 32  # side of the grayscale thumbnail that is hashed
_FREQUENCIES = 8  # lowest ones per axis: 64 bits
# Maximum Hamming distance of 64 bits. Unrelated regions differ in 32 +- 4; the same
# region after JPEG at quality 50, or enlarged by 10%, in 0 to 6.
_MAX_DISTANCE = 8
# The hash ignores coefficient magnitudes, so matches are confirmed by correlation.
_MIN_CORRELATION = 0.9
_MIN_CONTRAST = 2.0  # gray levels; images below have no structure to compare


def thumbnail(path: Path) -> Float[np.ndarray, "32 32"]:
    """Luma of an image, averaged to 32 x 32; the aspect ratio is not kept."""
    with Image.open(path) as image:
        gray = (
            image_rules.to_rgb(image)
            .convert("L")
            .resize((_THUMB, _THUMB), Image.Resampling.BOX)
        )
        return np.asarray(gray, np.float32)


def thumbnails(paths: list[Path], *, threads: int = 2) -> Float[np.ndarray, "n 32 32"]:
    """`thumbnail` of each file; the files must have passed `check_images`."""
    with images.quiet_decoding(), ThreadPoolExecutor(threads) as pool:
        return np.array(list(pool.map(thumbnail, paths))).reshape(-1, _THUMB, _THUMB)


def perceptual_hash(thumbs: Float[np.ndarray, "n 32 32"]) -> UInt64[np.ndarray, " n"]:
    """Hashes the signs of the lowest 64 DCT coefficients about their median.

    Args:
      thumbs: grayscale thumbnails.

    Returns:
      One 64-bit hash per thumbnail.
    """
    angle = np.pi / _THUMB * np.outer(np.arange(_FREQUENCIES), np.arange(_THUMB) + 0.5)
    waves = np.cos(angle)  # first rows of the DCT matrix, unnormalized
    low = (waves @ thumbs @ waves.T).reshape(len(thumbs), -1)
    low[:, 0] = 0  # brightness, not structure
    signs = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(signs, axis=1).view(np.uint64).reshape(-1)


def near_duplicates(
    thumbs: Float[np.ndarray, "n 32 32"], patients: tuple[str, ...]
) -> list[tuple[int, int]]:
    """Finds pairs of near-duplicate images of different patients.

    Includes rotated and mirrored copies; nearly uniform images are skipped.

    Args:
      thumbs: from `thumbnails`.
      patients: patient ID of each image.

    Returns:
      Sorted pairs (i, j), i < j.
    """
    n, owner = len(thumbs), np.array(patients)
    _, owner = np.unique(owner, return_inverse=True)
    plain = perceptual_hash(thumbs)
    structured = thumbs.std(axis=(1, 2)) >= _MIN_CONTRAST
    pairs = set()
    for pose in range(8):
        turned = np.rot90(thumbs, pose % 4, axes=(1, 2))
        turned = turned[:, ::-1] if pose >= 4 else turned
        hashes = perceptual_hash(turned)
        for i in range(n):
            candidates = structured & structured[i] & (owner != owner[i])
            for j in np.flatnonzero(candidates & _near(plain[i], hashes)):
                correlation = np.corrcoef(thumbs[i].flat, turned[j].flat)[0, 1]
                if i < j and correlation > _MIN_CORRELATION:
                    pairs.add((i, int(j)))
    return sorted(pairs)


def _near(one: np.uint64, hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    return np.bitwise_count(hashes ^ one) <= _MAX_DISTANCE
