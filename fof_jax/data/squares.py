"""Regions, masks and label maps resized, padded or cropped to a square."""

import io

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from fof_jax.data import images
from fof_jax.data.image_rules import ImageError

SMALL_RULES = ("resize", "pad", "error")
VIEW_RULES = ("resize", "crop")
Corner = tuple[float, float]


def _pad(image: Image.Image, side: int, fill) -> Image.Image:
    height, width = max(image.height, side), max(image.width, side)
    canvas = Image.new(image.mode, (width, height), fill)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def pad(
    pixels: UInt8[np.ndarray, "H W *C"], side: int, *, fill: int
) -> UInt8[np.ndarray, "h w *C"]:
    """Pads a region or a mask to at least `side` x `side`: centered."""
    color = (fill,) * pixels.shape[2] if pixels.ndim == 3 else fill
    return np.array(_pad(Image.fromarray(pixels), side, color))


def _fit(image, side: int, small: str, name: str, resample, fill) -> Image.Image:
    if image.size == (side, side):
        return image
    if min(image.size) < side:
        if small == "error":
            raise ImageError(
                "small image",
                f"{name} is {image.width}x{image.height}, smaller than "
                f"image_size={side}, and data.small='error'. Lower image_size or "
                "set data.small to 'resize' or 'pad'.",
            )
        if small == "pad":
            image = _pad(image, side, fill)
    if image.size == (side, side):
        return image
    return image.resize((side, side), resample)


def _crop(image, side: int, small: str, name: str, resample, fill, corner):
    """Crops a square without scaling; `corner` as fractions of the free space."""
    if min(image.size) < side:
        if small == "resize":  # enlarges the shorter side, keeps proportions
            scale = side / min(image.size)
            size = [max(side, round(scale * s)) for s in image.size]
            image = image.resize((size[0], size[1]), resample)
        elif small == "pad":
            image = _pad(image, side, fill)
        else:
            _fit(image, side, small, name, resample, fill)  # raises ImageError
    top = round(float(corner[0]) * (image.height - side))
    left = round(float(corner[1]) * (image.width - side))
    return image.crop((left, top, left + side, top + side))


def fit_region(
    pixels: UInt8[np.ndarray, "H W 3"],
    side: int,
    *,
    small: str,
    name: str,
    corner: Corner | None = None,
) -> UInt8[np.ndarray, "S S 3"]:
    """Resizes or crops a region to a square.

    Resize: a region smaller than `side` is handled by `small`; then bicubic with
    antialiasing, without keeping the aspect ratio. Crop: a square without scaling; a
    region with a side shorter than `side` is padded or enlarged in proportion first,
    by `small`.

    Args:
      pixels: RGB.
      side: side of the result, in pixels.
      small: `resize`, `pad` (centered, on white) or `error`.
      name: of the image, for the error message.
      corner: None to resize; else the position of the crop as fractions of the free
        space above and to the left: (0.5, 0.5) is the center.

    Returns:
      Pixels, 0-255.

    Raises:
      ImageError: the region is smaller than `side` and `small` is `error`.
    """
    if pixels.shape[:2] == (side, side):
        return pixels
    image, how = Image.fromarray(pixels), Image.Resampling.BICUBIC
    white = (255, 255, 255)
    if corner is None:
        return np.array(_fit(image, side, small, name, how, white))
    return np.array(_crop(image, side, small, name, how, white, corner))


def decode_region(
    data: bytes, side: int, *, small: str, name: str, corner: Corner | None = None
) -> UInt8[np.ndarray, "S S 3"]:
    """`decode`, then `fit_region`."""
    return fit_region(images.decode(data), side, small=small, name=name, corner=corner)


def decode_mask(
    data: bytes, side: int, *, small: str, name: str, corner: Corner | None = None
) -> Bool[np.ndarray, "S S"]:
    """Decodes a mask and resizes or crops it like `fit_region`.

    A pixel of the result is True where at least half of the area it covers is.
    """
    with Image.open(io.BytesIO(data)) as image:
        how = Image.Resampling.BOX
        if corner is None:
            square = _fit(image, side, small, name, how, 0)
        else:
            square = _crop(image, side, small, name, how, 0, corner)
        return np.asarray(square) > 127


def fit_labels(
    labels: UInt8[np.ndarray, "h w"],
    size: tuple[int, int],
    side: int,
    *,
    small: str,
    name: str,
    fill: int,
    corner: Corner | None = None,
) -> UInt8[np.ndarray, "S S"]:
    """Resizes or crops a label map like `fit_region`, by nearest neighbors.

    Args:
      labels: of the whole region, at any size.
      size: height and width of the region.
      side: side of the result, in pixels.
      small: as in `fit_region`.
      name: of the image, for the error message.
      fill: label of padding.
      corner: as in `fit_region`.
    """
    nearest = Image.Resampling.NEAREST
    image = Image.fromarray(labels)
    if corner is None and (small != "pad" or min(size) >= side):
        return np.array(image.resize((side, side), nearest))
    image = image.resize(size[::-1], nearest)
    if corner is None:
        return np.array(_fit(image, side, small, name, nearest, fill))
    return np.array(_crop(image, side, small, name, nearest, fill, corner))
