"""Reads and checks one HDF5 file of patch features."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fof_jax.data.bags import layouts
from fof_jax.data.bags.layouts import BagError, Header

_BLOCK = 2**24  # values that are checked at a time


@dataclasses.dataclass(frozen=True, eq=False)
class BagValues:
    """The patches of one file, in its order.

    Attributes:
      features: float16 as stored, or float32.
      coords: upper left corners (x, y) in units of a patch side, from the smallest.
    """

    features: Float[np.ndarray, "N D"]
    coords: Float[np.ndarray, "N 2"]


def check(path: Path, patch_size: float | None = None) -> Header:
    """Reads a whole file, block by block.

    Args:
      path: of the file.
      patch_size: for files that state none, see `layouts.read_header`.

    Raises:
      BagError: it is missing, damaged, truncated or of an unknown layout; no patches;
        features or coordinates that are not finite; two patches at one place.
    """
    with _opened(path) as file:
        header = layouts.read_header(file, path.name, patch_size)
        features = file[header.features]
        rows = max(1, _BLOCK // header.width)
        for start in range(0, header.count, rows):
            with np.errstate(over="ignore"):  # float64 beyond float32 is reported
                block = features[start : start + rows].astype(np.float32)
            bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
            if len(bad):
                raise BagError(
                    "features that are not finite",
                    f"{path.name}: patch {start + bad[0]} of {header.count} has NaN or "
                    "an infinite feature. Extract it again",
                )
        coords = file[layouts.COORDS][()].astype(np.float64)
        if not np.isfinite(coords).all():
            raise BagError(
                "coordinates that are not finite",
                f"{path.name}: a coordinate is NaN or infinite",
            )
        _check_unique(coords, path.name)
        if header.has_mask and not np.isin(file[layouts.MASK][()], (0, 1)).all():
            raise BagError(
                "mask of another form", f"{path.name}: mask has values besides 0 and 1"
            )
    return header


def read(path: Path, header: Header) -> BagValues:
    """Reads the values of a file that passed `check`.

    Raises:
      BagError: it is missing or damaged, or no longer as `header` says.
    """
    with _opened(path) as file:
        now = layouts.read_header(file, path.name, header.patch_size)
        if now != header:
            raise BagError("changed", f"{path.name} has changed since it was checked")
        features = file[header.features][()]
        coords = file[layouts.COORDS][()].astype(np.float64)
    corners = (coords - coords.min(axis=0)) / header.patch_size
    features = features.astype(header.dtype, copy=False)
    return BagValues(features, corners.astype(np.float32))


def read_coords(path: Path) -> Float[np.ndarray, "N 2"]:
    """Upper left corners (x, y) as the file has them, in its unit."""
    with _opened(path) as file:
        return file[layouts.COORDS][()].astype(np.float64)


def slide_name(path: Path) -> str:
    """Name of the slide that TRIDENT and CLAM record with the patches; "" if none."""
    with _opened(path) as file:
        for key in (layouts.COORDS, "features"):
            if key in file and (name := layouts.text(file[key].attrs, "name")):
                return name
    return ""


def read_mask(path: Path) -> Bool[np.ndarray, " N"]:
    """Which patches decide the grade, of a file whose header has a mask."""
    with _opened(path) as file:
        return file[layouts.MASK][()].astype(bool)


def _check_unique(coords: np.ndarray, name: str) -> None:
    _, first, counts = np.unique(coords, axis=0, return_index=True, return_counts=True)
    if len(first) == len(coords):
        return
    place = coords[first[np.argmax(counts > 1)]]
    raise BagError(
        "two patches at one place",
        f"{name}: {len(coords) - len(first)} of {len(coords)} coordinates occur "
        f"before, such as ({place[0]:g}, {place[1]:g}). Extract it again in one pass",
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; errors of reading become BagErrors."""
    h5py = layouts.hdf5()
    if not path.is_file():
        raise BagError("missing file", f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BagError:
        raise
    # What h5py raises for files that are not HDF5, truncated or damaged.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:120]
        raise BagError(
            "damaged file",
            f"{path.name} cannot be read as HDF5: it is damaged or truncated ({text})",
        ) from error
