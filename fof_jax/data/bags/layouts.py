"""Layouts of HDF5 files of patch features: CLAM's, TRIDENT's and STAMP's.

- TRIDENT: `features`; `coords` in level-0 pixels; patch size in the attribute
  `patch_size_level0` of `coords`.
- CLAM: `features`; `coords` in level-0 pixels; in its attributes `patch_size` at
  `patch_level`, `downsample` of that level, and `custom_downsample`.
- STAMP: `feats`; `coords` in micrometers; patch size in the file's attribute
  `tile_size_um`, or `tile_size` where `unit` is um.

Sources: mahmoodlab/TRIDENT a91fa84, `trident/IO.py` (`save_h5`, `coords_to_h5`,
`read_coords_legacy`) and `trident/wsi_objects/WSI.py`; mahmoodlab/CLAM 53e2409,
`wsi_core/WholeSlideImage.py` (`process_contour`), `extract_features_fp.py` and
`utils/file_utils.py`; KatherLab/STAMP c54ce06, `src/stamp/preprocessing/__init__.py`
and `src/stamp/modeling/data.py` (`get_coords`).

The file of features that CLAM writes has no attributes: they are in the file of patches
from which it was computed. Its patch size has to be stated (`data.patch_size`).
"""

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SUFFIXES = (".h5", ".hdf5")
COORDS = "coords"
MASK = "mask"  # written by `data bags`: whether a patch decides the grade
FEATURES = {"features": "CLAM or TRIDENT", "feats": "STAMP"}


class BagError(ValueError):
    """A file that is not a valid bag; `kind` groups the errors of a cohort."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of its bag, without the values.

    Attributes:
      layout: trident, clam or stamp.
      features: name of the dataset of features.
      count: N, number of patches.
      width: D, length of a feature vector.
      patch_size: side of a patch in the unit of the coordinates.
      unit: of the coordinates: px (level-0 pixels) or um (micrometers).
      dtype: of the features when read: float16, or float32.
      has_mask: whether the file says which patches decide the grade.
    """

    layout: str
    features: str
    count: int
    width: int
    patch_size: float
    unit: str
    dtype: str
    has_mask: bool


def hdf5() -> ModuleType:
    """The module h5py.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            "HDF5 files require h5py, which is not installed. "
            "Run: pip install 'fof-jax[bags]'"
        ) from error
    return h5py


def is_bag(path: Path | str) -> bool:
    """Whether a file is one of patch features, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def read_header(file: Any, name: str, patch_size: float | None = None) -> Header:
    """Recognizes the layout of an open file.

    Args:
      file: `h5py.File`.
      name: of the file, for messages.
      patch_size: side of a patch in the unit of the coordinates, for files that do
        not state it.

    Raises:
      BagError: the layout is not known, shapes or types do not fit, values lie in
        other files, or no patch size is stated.
    """
    names = [key for key in FEATURES if key in file]
    if len(names) != 1 or COORDS not in file:
        held = ", ".join(sorted(map(str, file))) or "nothing"
        raise BagError(
            "unknown layout",
            f"{name} holds {held}; expected coords, and features (CLAM, TRIDENT) or "
            "feats (STAMP)",
        )
    features = _dataset(file, names[0], name)
    coords = _dataset(file, COORDS, name)
    if features.ndim != 2 or features.dtype.kind != "f":
        raise BagError(
            "features of another form",
            f"{name}: {names[0]} is {features.dtype} {features.shape}; expected "
            "floating-point numbers [N, D], one row a patch. The embedding of a whole "
            "slide or patient is not a bag",
        )
    count, width = features.shape
    if not count or not width:
        raise BagError("empty bag", f"{name}: {names[0]} is {features.shape}")
    if coords.shape != (count, 2) or coords.dtype.kind not in "iuf":
        raise BagError(
            "coordinates of another form",
            f"{name}: coords is {coords.dtype} {coords.shape}; expected numbers "
            f"({count}, 2), one row for each of {names[0]}",
        )
    layout, unit, stated = _patch_size(file, coords, stamp=names[0] == "feats")
    side = patch_size if stated is None else stated
    if side is None:
        raise BagError(
            "no patch size",
            f"{name} states no patch size. Pass the side of a patch in level-0 "
            "pixels: --config.data.patch_size=…",
        )
    if not (math.isfinite(side) and side > 0):
        raise BagError("no patch size", f"{name}: the patch size is {side}")
    if has_mask := MASK in file:
        mask = _dataset(file, MASK, name)
        if mask.shape != (count,) or mask.dtype.kind not in "biu":
            raise BagError(
                "mask of another form",
                f"{name}: mask is {mask.dtype} {mask.shape}; expected 0 or 1 for each "
                f"of {count} patches",
            )
    dtype = "float16" if features.dtype == np.float16 else "float32"
    return Header(layout, names[0], count, width, side, unit, dtype, has_mask)


def _dataset(file: Any, key: str, name: str) -> Any:
    """A dataset whose values lie in this very file: its hash then covers them."""
    h5py = hdf5()
    linked = isinstance(file.get(key, getlink=True), h5py.ExternalLink)
    dataset = None if linked else file[key]
    if not linked and not isinstance(dataset, h5py.Dataset):
        raise BagError("unknown layout", f"{name}: {key} is not a dataset")
    if dataset is None or dataset.is_virtual or dataset.external:
        raise BagError(
            "values in another file",
            f"{name}: {key} refers to another file. Copy it into one file (h5repack)",
        )
    return dataset


def _patch_size(
    file: Any, coords: Any, *, stamp: bool
) -> tuple[str, str, float | None]:
    """Layout, unit of the coordinates, and the patch size stated in that unit."""
    if stamp:
        micrometers = _number(file.attrs, "tile_size_um")
        if micrometers is None and text(file.attrs, "unit") == "um":
            micrometers = _number(file.attrs, "tile_size")
        if micrometers is not None:
            return "stamp", "um", micrometers
        # Before version 2 coordinates were in pixels of the scaled slide.
        return "stamp", "px", _number(file.attrs, "tile_size")
    level0 = _number(coords.attrs, "patch_size_level0")
    if level0 is not None:
        return "trident", "px", level0
    side, downsample = (_number(coords.attrs, k) for k in ("patch_size", "downsample"))
    if downsample is None and _number(coords.attrs, "patch_level") == 0:
        downsample = 1.0
    if side is None or downsample is None:
        return "clam", "px", None
    custom = _number(coords.attrs, "custom_downsample")
    return "clam", "px", side * downsample * (1.0 if custom is None else custom)


def _number(attributes: Any, key: str) -> float | None:
    """An attribute as a number, the first of several (x before y); None if absent."""
    if key not in attributes:
        return None
    try:
        return float(np.ravel(np.asarray(attributes[key]))[0])
    except (ValueError, TypeError, IndexError):
        return None  # "None", as TRIDENT writes it


def text(attributes: Any, key: str) -> str:
    """An attribute as text; "" if absent."""
    value = attributes.get(key, "")
    return value.decode() if isinstance(value, bytes) else str(value)
