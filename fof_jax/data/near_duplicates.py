"""Pictures that stand in a cohort twice under two patients, by perceptual hash."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt64
from PIL import Image

from fof_jax.data import images

_THUMB = 32  # side of the grey picture that is hashed
_KEPT = 8  # lowest frequencies along a side: 64 bits
# Of 64 bits. Unrelated regions differ in 32 +- 4; the same region after JPEG at
# quality 50, or enlarged by a tenth, in 0 to 6.
_BITS = 8
# Correlation of the two grey pictures: a hash knows signs of frequencies, not sizes.
_ALIKE = 0.9
_FLAT = 2.0  # grey levels; a picture with less contrast looks like any other


def thumbnail(path: Path) -> Float[np.ndarray, "32 32"]:
    """An image as 32 x 32 means of its luma; the aspect ratio is not kept."""
    with Image.open(path) as image:
        grey = image.convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)
        return np.asarray(grey, np.float32)


def thumbnails(paths: list[Path], *, threads: int = 2) -> Float[np.ndarray, "n 32 32"]:
    """`thumbnail` of each of some files that `check_images` has found sound."""
    with images.quiet_decoding(), ThreadPoolExecutor(threads) as pool:
        return np.array(list(pool.map(thumbnail, paths))).reshape(-1, _THUMB, _THUMB)


def perceptual_hash(thumbs: Float[np.ndarray, "n 32 32"]) -> UInt64[np.ndarray, " n"]:
    """The signs of the 64 lowest DCT frequencies about their median.

    Args:
      thumbs: grey pictures.

    Returns:
      A word of 64 bits a picture.
    """
    angle = np.pi / _THUMB * np.outer(np.arange(_KEPT), np.arange(_THUMB) + 0.5)
    waves = np.cos(angle)  # the first rows of the DCT, but for their scale
    low = (waves @ thumbs @ waves.T).reshape(len(thumbs), -1)
    low[:, 0] = 0  # brightness, not structure
    signs = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(signs, axis=1).view(np.uint64).reshape(-1)


def near_duplicates(
    thumbs: Float[np.ndarray, "n 32 32"], patients: tuple[str, ...]
) -> list[tuple[int, int]]:
    """Pairs of pictures that look the same and belong to two patients.

    Turned and mirrored copies count: tissue has no up. Nearly uniform pictures are
    left out.

    Args:
      thumbs: of `thumbnails`.
      patients: whose each is.

    Returns:
      Pairs (i, j), i < j, in order.
    """
    n, owner = len(thumbs), np.array(patients)
    _, owner = np.unique(owner, return_inverse=True)
    plain = perceptual_hash(thumbs)
    uneven = thumbs.std(axis=(1, 2)) >= _FLAT
    found = set()
    for pose in range(8):
        turned = np.rot90(thumbs, pose % 4, axes=(1, 2))
        turned = turned[:, ::-1] if pose >= 4 else turned
        hashes = perceptual_hash(turned)
        for i in range(n):
            near = _near(plain[i], hashes) & uneven & (owner != owner[i]) & uneven[i]
            for j in np.flatnonzero(near):
                if i < j and np.corrcoef(thumbs[i].flat, turned[j].flat)[0, 1] > _ALIKE:
                    found.add((i, int(j)))
    return sorted(found)


def _near(one: np.uint64, hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    return np.bitwise_count(hashes ^ one) <= _BITS
