"""How a trained model sees an image: at the scale of its training, in tiles."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data import images
from fof_jax.data.stain import macenko
from fof_jax.inference import tiling

# Sizes of a list differ: "_" binds none, so that each may have its own.
Picture = str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """An image as the model sees it.

    Attributes:
      pixels: at the model's scale.
      tiles: squares of S pixels.
      corners: top and left of each; one at (0, 0) where nothing was cut.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    tiles: UInt8[np.ndarray, "n S S 3"]
    corners: list[tiling.Corner]


def see(picture: Picture, options: ConfigDict, sides: tuple[int, int] | None) -> Seen:
    """An image at the model's scale, and its tiles.

    Args:
      picture: a file, a PIL image, or an RGB array of 0-255.
      options: the section `data` of the run's configuration.
      sides: see `trained.Model`.

    Raises:
      ValueError: a file that is no image, or is not accepted (`data/images.py`).
    """
    pixels = _pixels(picture)
    side = int(options.image_size)
    if options.stain == "macenko":
        pixels = macenko(pixels)
    least, most = sides or (side, side)
    if max(pixels.shape[:2]) > max(most, side):
        if options.test_view == "resize" and most > side:
            pixels = _scaled(pixels, side / ((least + most) / 2))
        if min(pixels.shape[:2]) >= side:
            at = tiling.corners(pixels.shape[0], pixels.shape[1], side)
            tiles = [pixels[y : y + side, x : x + side] for y, x in at]
            return Seen(pixels, np.stack(tiles), at)
    corner = (0.5, 0.5) if options.test_view == "crop" else None
    name = str(picture) if isinstance(picture, str | Path) else "image"
    square = images.fit_region(
        pixels, side, small=options.small, name=name, corner=corner
    )
    return Seen(square, square[None], [(0, 0)])


def _pixels(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"image: an array of shape {picture.shape} and {picture.dtype}; "
                "expected [H, W, 3] and uint8 (RGB, 0-255)."
            )
        return picture
    with images.quiet_decoding():
        if isinstance(picture, Image.Image):
            return np.array(picture.convert("RGB"))
        path = Path(picture)
        images.check_region(path)
        return images.decode(images.encode_region(path))


def _scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    size = [max(1, round(factor * n)) for n in pixels.shape[1::-1]]
    image = Image.fromarray(pixels)
    return np.array(image.resize((size[0], size[1]), Image.Resampling.BICUBIC))
