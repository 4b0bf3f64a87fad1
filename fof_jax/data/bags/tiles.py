"""Tiles of a cohort of images: their features, grades, and how far masks cover them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from fof_jax.data import images
from fof_jax.data.bags import index, reading, writing
from fof_jax.data.bags.index import Entry
from fof_jax.data.bags.layouts import BagError
from fof_jax.data.cohort import Cohort, Row
from fof_jax.data.errors import shortened

COVERED = 0.5  # of a tile that the mask has to cover


@dataclasses.dataclass(frozen=True)
class Tile:
    """One tile of an image: the image's row, its place in the file, its labels."""

    row: int
    at: int
    grade: int
    patient: str
    covered: bool


def read_tiles(
    cohort: Cohort, folder: Path, *, threads: int = 2
) -> tuple[list[Tile], list[Entry]]:
    """Tiles of the images of a cohort, and the files with their features.

    Args:
      cohort: images with masks, except of the lowest grade, which may lack them.
      folder: one HDF5 file for each image, by its name, as `features` writes them.
      threads: number of files read in parallel.

    Raises:
      ValueError: an image without a file or a valid one, files of different D, or
        tiles that lie outside of the image.
    """
    paths = [writing.path_of(folder, cohort.name_of(row)) for row in cohort.rows]
    entries = index.check_all(paths, threads=threads)
    faults = [str(entry) for entry in entries if isinstance(entry, BagError)]
    checked = [entry for entry in entries if isinstance(entry, Entry)]
    if not faults and len({entry.header.width for entry in checked}) > 1:
        faults = ["files of different D"]
    if faults:
        raise ValueError(
            f"--features: {len(faults)} of {len(paths)} images have no valid file in "
            f"{folder}: {shortened(faults)}. Write them: python launch.py features "
            f"--checkpoint=… --images=TABLE --out={folder}"
        )
    tiles = []
    for i, (row, entry) in enumerate(zip(cohort.rows, checked, strict=True)):
        corners = reading.read_coords(entry.path)
        share = _coverage(row, corners, entry.header.patch_size)
        tiles += [
            Tile(i, at, row.grade, row.patient, bool(covered >= COVERED))
            for at, covered in enumerate(share)
        ]
    return tiles, checked


def _coverage(row: Row, corners: np.ndarray, side: float) -> Float[np.ndarray, " N"]:
    """Fraction of each tile that the mask of its image covers; 0 without a mask."""
    header = images.read_header(row.image)
    if (corners < 0).any() or (
        corners + side > (header.width + 0.5, header.height + 0.5)
    ).any():
        raise ValueError(
            f"{row.image.name} is {header.width}x{header.height}, and tiles of its "
            f"features of side {side:g} lie outside. Extract them from this image."
        )
    if row.mask is None:
        return np.zeros(len(corners))
    inside = _mask(row.mask)
    whole = int(round(side))
    return np.array(
        [
            inside[int(y) : int(y) + whole, int(x) : int(x) + whole].mean()
            for x, y in corners
        ]
    )


def _mask(path: Path) -> Bool[np.ndarray, "H W"]:
    with Image.open(io.BytesIO(images.encode_mask(path))) as image:
        return np.array(image) > 0
