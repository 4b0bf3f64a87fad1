"""Inference preprocessing: brings an image to the training scale and cuts tiles."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data import images, squares
from fof_jax.data.graphs.record import CellGraph
from fof_jax.data.images import ImageLike
from fof_jax.data.read_options import ReadOptions
from fof_jax.data.training_data import TrainingData
from fof_jax.inference import image_warnings, tiling

_NEARLY = 1.1  # ratio of sides that is no difference of scale, as in image_scale
_MAX_PIXELS = 89_478_485  # of a resampled image, as Pillow's limit for files


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImage:
    """Network input for one image.

    Attributes:
      pixels: the image at the model's scale.
      tiles: squares of S pixels.
      corners: top and left of each tile; [(0, 0)] for an image of one tile.
      warning: what is odd about the image; "" for nothing.
      omics: molecular vector of the image's patient, raw, NaN where unknown; None for
        a model of the image alone.
      graphs: of the tiles, for a model that reads them.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    tiles: UInt8[np.ndarray, "n S S 3"]
    corners: list[tiling.Corner]
    warning: str = ""
    omics: Float[np.ndarray, " M"] | None = None
    graphs: tuple[CellGraph, ...] | None = None


def preprocess(
    image: ImageLike,
    options: ConfigDict,
    sides: tuple[int, int] | None,
    training: TrainingData | None = None,
    zoom: float | None = None,
) -> PreparedImage:
    """Preprocesses one image of any size.

    An image no larger than the training images is preprocessed as they were for
    testing. A larger one is scaled by the factor that training images were scaled by
    on average, then cut into overlapping tiles; where it is narrower than a tile, it is
    padded with white.

    Args:
      image: a file, a PIL image, or an RGB array of 0-255.
      options: section `data` of the run's config.
      sides, training: as in `predictor.Predictor`.
      zoom: factor of the image's sides to the scale of training, which it then keeps:
        a smaller image is padded with white. None: the scale is unknown.

    Raises:
      ValueError: not an image, or not a supported one (`data/images.py`); or one that
        the zoom makes too large.
    """
    read = _options(options)
    decoded = images.read(image)
    if zoom is not None and decoded[..., 0].size * zoom**2 > _MAX_PIXELS:
        raise ValueError(
            f"{decoded.shape[1]} x {decoded.shape[0]} pixels, {zoom:.3g} times as wide "
            f"at the scale of the training images; expected at most {_MAX_PIXELS:,} "
            "pixels there. Check its mpp, or cut it."
        )
    decoded = rescale(decoded, zoom)
    side = int(options.image_size)
    shortest, _ = sides or (side, side)
    odd = image_warnings.of_pixels(decoded, shortest=shortest, training=training)
    pixels = read.load(decoded)
    height, width = pixels.shape[:2]
    factor, corners = _tiling((height, width), options, sides)
    small = _NEARLY * min(height, width) < shortest
    if zoom is not None and corners is None and small:
        # Fitted to the square it would be enlarged, and its scale lost.
        pixels = squares.pad(pixels, shortest, fill=255)
        odd.append(f"padded with white: {width} x {height} at the training scale")
        height, width = pixels.shape[:2]
    if corners is not None:
        pixels = _rescale(pixels, factor, Image.Resampling.BICUBIC)
        if min(pixels.shape[:2]) < side:
            pixels = squares.pad(pixels, side, fill=255)
            odd.append(f"padded with white: {width} x {height} is narrower than a tile")
        tiles = [pixels[y : y + side, x : x + side] for y, x in corners]
        return PreparedImage(pixels, np.stack(tiles), corners, "; ".join(odd))
    oblong = max(height, width) > image_warnings.MAX_SQUEEZED * min(height, width)
    if oblong and read.test_view == "resize":
        odd.append(f"squeezed into a square: {width} x {height} pixels")
    name = str(image) if isinstance(image, str | Path) else "image"
    square = read.square(pixels, side, name=name, corner=read.test_corner)
    return PreparedImage(square, square[None], [(0, 0)], "; ".join(odd))


def rescale(pixels: UInt8[np.ndarray, "H W 3"], zoom: float | None) -> np.ndarray:
    """An image at the scale of the training images; see `preprocess`."""
    return _rescale(pixels, zoom or 1.0, Image.Resampling.BICUBIC)


def scale(
    shape: tuple[int, ...], options: ConfigDict, sides: tuple[int, int] | None
) -> float | None:
    """Factor by which `preprocess` scales an image that it cuts into tiles.

    Args:
      shape: height and width of the image.
      options, sides: as in `preprocess`.

    Returns:
      the factor; None for an image that is fitted to one square.
    """
    factor, corners = _tiling(shape[:2], options, sides)
    return None if corners is None else factor


def preprocess_mask(
    path: Path, options: ConfigDict, sides: tuple[int, int] | None
) -> Bool[np.ndarray, "n S S"]:
    """Masks of the tiles that `preprocess` makes of the image with this mask.

    Args:
      path: of the mask; nonzero is foreground. Of its image's size.
      options, sides: as in `preprocess`.

    Returns:
      True where at least half of the area that a pixel covers is foreground.

    Raises:
      ValueError: not a supported mask.
    """
    with images.quiet_decoding():
        images.check_mask(path)
    with Image.open(io.BytesIO(images.encode_mask(path))) as image:
        inside = np.array(image) > 0
    return fit_mask(inside, options, sides)


def fit_mask(
    inside: Bool[np.ndarray, "H W"],
    options: ConfigDict,
    sides: tuple[int, int] | None,
) -> Bool[np.ndarray, "n S S"]:
    """`preprocess_mask` of a mask in memory."""
    mask = inside.astype(np.uint8) * 255
    side = int(options.image_size)
    factor, corners = _tiling(mask.shape, options, sides)
    if corners is not None:
        mask = _rescale(mask, factor, Image.Resampling.BOX)
        mask = squares.pad(mask, side, fill=0)
        return np.stack([mask[y : y + side, x : x + side] > 127 for y, x in corners])
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return _options(options).mask(buffer.getvalue(), side, name="mask")[None]


def _options(options: ConfigDict) -> ReadOptions:
    return ReadOptions(
        small=options.small, stain=options.stain, test_view=options.test_view
    )


def _tiling(
    shape: tuple[int, ...], options: ConfigDict, sides: tuple[int, int] | None
) -> tuple[float, list[tiling.Corner] | None]:
    """The factor that an image of this size is scaled by, and its tiles' corners.

    No corners for an image that is fitted to one square, as in testing.
    """
    side = int(options.image_size)
    shortest, longest = sides or (side, side)
    if max(shape) <= max(longest, side):
        return 1.0, None
    factor = 1.0
    if options.test_view == "resize" and longest > side:
        factor = side / ((shortest + longest) / 2)
    height, width = (n if factor == 1 else _scaled(n, factor) for n in shape)
    return factor, tiling.corners(max(height, side), max(width, side), side)


def _rescale(
    pixels: np.ndarray, factor: float, resample: Image.Resampling
) -> np.ndarray:
    if factor == 1:
        return pixels
    width, height = (_scaled(n, factor) for n in pixels.shape[1::-1])
    return np.array(Image.fromarray(pixels).resize((width, height), resample))


def _scaled(length: int, factor: float) -> int:
    return max(1, round(factor * length))
