"""Writes patch features in the layouts that `layouts` reads, and as npz."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax import files
from fof_jax.data.bags import layouts

# trident's files are CLAM's, too: names and types of the datasets are the same.
LAYOUTS = {"trident": ".h5", "stamp": ".h5", "npz": ".npz"}
_CHUNK = 2**18  # values per chunk, of whole rows: a few patches can be read alone


@dataclasses.dataclass(frozen=True)
class Patches:
    """Patch features of one image or slide.

    Attributes:
      features: one row a patch.
      corners: upper left corners (x, y) in level-0 pixels.
      patch_size: side of a patch in level-0 pixels.
      pixels: side of a patch as the encoder received it.
      encoder: name of the encoder.
      name: of the image.
      size: width and height of the image in level-0 pixels.
      mpp: micrometers per level-0 pixel; None if unknown.
      mask: whether a patch decides the grade; None if that is unknown.
    """

    features: Float[np.ndarray, "N D"]
    corners: Int[np.ndarray, "N 2"]
    patch_size: int
    pixels: int
    encoder: str
    name: str
    size: tuple[int, int]
    mpp: float | None = None
    mask: Bool[np.ndarray, " N"] | None = None


def path_of(folder: Path, image: str, layout: str = "trident") -> Path:
    """File of the features of an image: its name with another suffix, below `folder`.

    Args:
      folder: of all files.
      image: name of the image, relative to its table.
      layout: one of LAYOUTS.
    """
    relative = Path(image)
    if relative.is_absolute() or ".." in relative.parts:
        relative = Path(relative.name)
    return (folder / relative).with_suffix(LAYOUTS[layout])


def write(path: Path, patches: Patches, layout: str = "trident") -> None:
    """Writes one file, whole or not at all.

    Args:
      path: its suffix is that of LAYOUTS.
      patches: at least one.
      layout: `trident` (`features`, `coords` in pixels; CLAM reads it, too), `stamp`
        (`feats`, `coords` in micrometers) or `npz` (NumPy; names as for trident).

    Raises:
      ValueError: an unknown layout; no patches; or `stamp` without a scale.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"--layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}."
        )
    if not len(patches.features):
        raise ValueError(f"{patches.name}: no patches, expected at least one.")
    if layout == "npz":
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {**_datasets(patches), **_attributes(patches)}
        np.savez(buffer, **arrays)
        files.write_bytes(path, buffer.getvalue())
        return
    if layout == "stamp" and patches.mpp is None:
        raise ValueError(
            f"{patches.name}: STAMP's coordinates are in micrometers, and the image "
            "states no scale. Pass --image_mpp=…, micrometers per pixel, or another "
            "--layout."
        )
    files.write_bytes(path, _hdf5(patches, layout))


def _datasets(patches: Patches) -> dict[str, np.ndarray]:
    arrays = {
        "features": patches.features,
        layouts.COORDS: patches.corners.astype(np.int64),
    }
    if patches.mask is not None:
        arrays[layouts.MASK] = patches.mask.astype(np.uint8)
    return arrays


def _attributes(patches: Patches) -> dict[str, Any]:
    """Attributes of `coords` that CLAM and TRIDENT write."""
    width, height = patches.size
    stated = {} if patches.mpp is None else {"mpp": patches.mpp}
    return stated | {
        "patch_size": patches.pixels,
        "patch_size_level0": patches.patch_size,
        # CLAM's side in level-0 pixels is patch_size times downsample.
        "patch_level": 0,
        "downsample": patches.patch_size / patches.pixels,
        "overlap": 0,
        "name": patches.name,
        "level0_width": width,
        "level0_height": height,
    }


def _hdf5(patches: Patches, layout: str) -> bytes:
    buffer = io.BytesIO()
    with layouts.hdf5().File(buffer, "w") as file:
        arrays = _datasets(patches)
        if layout == "stamp":
            scale = patches.mpp or 0.0
            arrays["feats"] = arrays.pop("features")
            arrays[layouts.COORDS] = (patches.corners * scale).astype(np.float32)
            file.attrs.update(
                unit="um",
                tile_size_um=patches.patch_size * scale,
                tile_size_px=patches.pixels,
                extractor=patches.encoder,
                feat_type="tile",
            )
        for key, array in arrays.items():
            rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
            chunks = (min(rows, len(array)), *array.shape[1:])
            file.create_dataset(
                key, data=array, chunks=chunks, maxshape=(None, *array.shape[1:])
            )
        if layout == "trident":
            file["features"].attrs.update(name=patches.name, encoder=patches.encoder)
            file[layouts.COORDS].attrs.update(_attributes(patches))
    return buffer.getvalue()
