"""Superpixels of the images of a store: SLIC once per image, kept beside the images.

scikit-image (the extra `superpixels`) is imported when maps are computed; reading them
needs NumPy and Pillow only.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from fof_jax import files
from fof_jax.data import images, squares
from fof_jax.data.errors import MissingDataError
from fof_jax.data.progress import Progress
from fof_jax.data.store import Store

SIDE = 256  # images are reduced or enlarged to this before clustering
COMPACTNESS = 20.0  # weight of positions against colors
SIGMA = 1.0  # standard deviation of the blur, in pixels of the reduced image
PADDING = 255  # label of the white around a small image that is padded
CAPACITY = PADDING + 1  # a bound above every label


def segment(
    pixels: UInt8[np.ndarray, "H W 3"], count: int
) -> UInt8[np.ndarray, "256 256"]:
    """Divides an image into superpixels by SLIC.

    Args:
      pixels: RGB, of any size.
      count: of superpixels that are asked for; SLIC makes about as many.

    Returns:
      Labels 0 … n-1 of the image reduced or enlarged to 256 x 256.

    Raises:
      ValueError: scikit-image is not installed, or there are more than 255
        superpixels.

    Source: methods/clat_pathgcn.md, "SLIC without fast_slic".
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ValueError(
            "superpixels require scikit-image, which is not installed. "
            "Run: pip install 'fof-jax[superpixels]'"
        ) from error
    reduced = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    labels = slic(
        np.asarray(reduced),
        n_segments=count,
        compactness=COMPACTNESS,
        sigma=SIGMA,
        start_label=0,
    )
    if labels.max() >= PADDING:
        raise ValueError(
            f"SLIC made {labels.max() + 1} superpixels of {count} that were asked "
            f"for; at most {PADDING} can be stored. Ask for fewer."
        )
    return labels.astype(np.uint8)


class SuperpixelMaps:
    """Superpixels of a store, read as its images are; created by `open_maps`."""

    def __init__(self, store: Store, path: Path):
        self._store, self._path = store, path

    @functools.cached_property
    def labels(self) -> UInt8[np.ndarray, "n 256 256"]:
        """Labels of all images, mapped from the file."""
        return np.load(self._path, mmap_mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        return SuperpixelMaps, (self._store, self._path)  # each process maps the file

    def read(
        self,
        rows: Int[np.ndarray, " B"],
        side: int,
        corners: Float[np.ndarray, "B 2"] | None = None,
    ) -> UInt8[np.ndarray, "B S S"]:
        """Reads labels by row, resized or cropped as `ImageCache.read` does images.

        Args:
          rows: positions in the store.
          side: S.
          corners: position of each crop; None for whole images.

        Returns:
          Labels; `PADDING` where the image is padded.
        """
        out = np.empty((len(rows), side, side), np.uint8)
        for k, i in enumerate(rows):
            out[k] = squares.fit_labels(
                self.labels[i],
                tuple(self._store.sizes[i].tolist()),
                side,
                small=self._store.options.small,
                name=self._store.images[i],
                fill=PADDING,
                corner=None if corners is None else tuple(corners[k].tolist()),
            )
        return out


def open_maps(
    store: Store, count: int, progress: Progress | None = None
) -> SuperpixelMaps | None:
    """Superpixels of a store; computes them where they do not exist yet.

    They are clustered on the colors as stored, before stain normalization, and lie in
    the folder of the build, one file per `count`. A killed computation leaves none.

    Args:
      store: source of the images.
      count: of superpixels per image; 0 for none.
      progress: called with (done, total) after each image.

    Returns:
      The maps, or None if `count` is 0.

    Raises:
      ValueError: scikit-image is not installed and the maps do not exist, or `count` is
        too large.
      MissingDataError: the file does not belong to the store.
    """
    if not count:
        return None
    path = store.folder / f"superpixels_{count}.npy"
    with files.file_lock(store.folder / ".superpixels.lock"):
        if not path.exists():
            labels = np.empty((len(store), SIDE, SIDE), np.uint8)
            for i in range(len(store)):
                labels[i] = segment(images.decode(store.encoded(i)), count)
                if progress is not None:
                    progress(i + 1, len(store))
            files.write_with(path, lambda file: np.save(file, labels))
    maps = SuperpixelMaps(store, path)
    try:
        shape = maps.labels.shape
    except (OSError, ValueError) as error:
        raise MissingDataError(
            f"{path} is damaged ({error}). Remove it; the next run computes it again."
        ) from error
    if shape != (len(store), SIDE, SIDE):
        raise MissingDataError(
            f"{path} has the shape {shape}, expected {(len(store), SIDE, SIDE)}. "
            "Remove it; the next run computes it again."
        )
    return maps
