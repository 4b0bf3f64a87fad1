"""Inference preprocessing: brings an image to the training scale and cuts tiles."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data import images
from fof_jax.data.read_options import ReadOptions
from fof_jax.inference import tiling

# jaxtyping: "_" is not bound, so that images of a list may differ in size.
ImageLike = str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImage:
    """Network input for one image.

    Attributes:
      pixels: the image at the model's scale.
      tiles: squares of S pixels.
      corners: top and left of each tile; [(0, 0)] for an image of one tile.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    tiles: UInt8[np.ndarray, "n S S 3"]
    corners: list[tiling.Corner]


def preprocess(
    image: ImageLike, options: ConfigDict, sides: tuple[int, int] | None
) -> PreparedImage:
    """Preprocesses one image of any size.

    An image no larger than the training images is preprocessed as they were for
    testing. A larger one is scaled by the factor that training images were scaled by
    on average, then cut into overlapping tiles.

    Args:
      image: a file, a PIL image, or an RGB array of 0-255.
      options: section `data` of the run's config.
      sides: as in `predictor.Predictor`.

    Raises:
      ValueError: not an image, or not a supported one (`data/images.py`).
    """
    read = ReadOptions(
        small=options.small, stain=options.stain, test_view=options.test_view
    )
    pixels = read.load(_read(image))
    side = int(options.image_size)
    shortest, longest = sides or (side, side)
    if max(pixels.shape[:2]) > max(longest, side):
        if read.test_view == "resize" and longest > side:
            pixels = _rescale(pixels, side / ((shortest + longest) / 2))
        if min(pixels.shape[:2]) >= side:
            corners = tiling.corners(pixels.shape[0], pixels.shape[1], side)
            tiles = [pixels[y : y + side, x : x + side] for y, x in corners]
            return PreparedImage(pixels, np.stack(tiles), corners)
    name = str(image) if isinstance(image, str | Path) else "image"
    square = read.square(pixels, side, name=name, corner=read.test_corner)
    return PreparedImage(square, square[None], [(0, 0)])


def _read(image: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image: an array of shape {image.shape} and {image.dtype}; "
                "expected [H, W, 3] and uint8 (RGB, 0-255)."
            )
        return image
    with images.quiet_decoding():
        if isinstance(image, Image.Image):
            return np.array(image.convert("RGB"))
        path = Path(image)
        images.check_region(path)
        return images.decode(images.encode_region(path))


def _rescale(pixels: np.ndarray, factor: float) -> np.ndarray:
    size = [max(1, round(factor * n)) for n in pixels.shape[1::-1]]
    image = Image.fromarray(pixels)
    return np.array(image.resize((size[0], size[1]), Image.Resampling.BICUBIC))
