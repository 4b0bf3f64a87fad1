"""Which images are accepted, and their RGB pixels: one set of rules.

It holds for files, PIL images and arrays. Accepted are PNG, JPEG and TIFF of one page,
or images in memory, with 8 bits per channel: RGB, RGBA and PNG with a transparent color
(on white, the background of a slide), and grayscale (replicated to three channels).
Orientation tags are not applied. Everything else raises `ImageError`.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

REGION_MODES = ("RGB", "RGBA", "L")
MASK_MODES = ("L", "1")
_FORMATS = ("PNG", "JPEG", "TIFF")
_PNG_BITS = 24  # position of the bit depth in the file
_TIFF_BITS, _ORIENTATION = 258, 274  # tags
# What undoes the transposition that PIL applies to a TIFF with this orientation tag.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class ImageError(ValueError):
    """An unusable image; `kind` groups errors in a report."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Header:
    """Format (None in memory), PIL mode, height and width as stored."""

    format: str | None
    mode: str
    height: int
    width: int


def check(
    image: Image.Image, name: str, modes: tuple[str, ...] = REGION_MODES
) -> Header:
    """Checks an opened image; decodes nothing.

    Args:
      image: from a file, or made in memory.
      name: of the image, for messages.
      modes: accepted PIL modes.

    Raises:
      ImageError: a format, number of pages or mode that is not accepted, or no pixels.
    """
    if image.format not in (None, *_FORMATS):
        raise ImageError(
            "unsupported image format",
            f"{name} is {image.format}; PNG, JPEG and TIFF are read",
        )
    if (pages := getattr(image, "n_frames", 1)) != 1:
        raise ImageError(
            "several pages",
            f"{name} has {pages} pages or levels; save the intended one as a separate "
            "file",
        )
    bits = _bits(image)
    if image.mode not in modes or (image.mode != "1" and set(bits) != {8}):
        raise ImageError(
            "unsupported channels",
            f"{name} has mode {image.mode} with {max(bits)} bits; "
            f"expected 8 bits in {' or '.join(modes)}: convert it",
        )
    width, height = image.size
    if not width * height:
        raise ImageError("no pixels", f"{name} is {width}x{height}; expected pixels")
    if orientation_of(image) >= 5:  # PIL states the size after the transposition
        width, height = height, width
    return Header(image.format, image.mode, height, width)


def orientation_of(image: Image.Image) -> int:
    """Orientation tag that PIL applies when it decodes: of a TIFF; 1 for none.

    PIL removes the tag when it has decoded the image.
    """
    if image.format != "TIFF":
        return 1
    value = image.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
    return value if value in _UNDO else 1


def has_transparent_color(image: Image.Image) -> bool:
    """Whether a PNG names a color that is transparent (tRNS)."""
    return "transparency" in image.info


def as_stored(image: Image.Image) -> Image.Image:
    """Decodes an image without applying its orientation tag."""
    orientation = orientation_of(image)
    image.load()
    return image if orientation == 1 else image.transpose(_UNDO[orientation])


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes a checked image: RGB as stored, transparent pixels on white."""
    stored = as_stored(image)
    if stored.mode == "RGBA" or has_transparent_color(stored):
        return on_white(stored.convert("RGBA"))
    return stored.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Composites an RGBA image on white."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def check_array(pixels: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """Checks an array: RGB, uint8 [H, W, 3].

    Raises:
      ImageError: another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ImageError(
            "unsupported array",
            f"image: an array of shape {pixels.shape} and {pixels.dtype}; "
            "expected [H, W, 3] and uint8 (RGB, 0-255).",
        )
    if not pixels.size:
        raise ImageError("no pixels", f"image: an array of shape {pixels.shape}")
    return pixels


def _bits(image: Image.Image) -> tuple[int, ...]:
    """Bits per channel as stored: PIL reads 16-bit RGB as 8 bits, without a word."""
    if image.format == "TIFF":
        return tuple(image.tag_v2.get(_TIFF_BITS, (1,)))  # type: ignore[attr-defined]
    if image.format != "PNG":
        return (8,)
    if tiles := getattr(image, "tile", ()):  # not decoded yet
        return (16,) if "16" in str(tiles[0][3]) else (8,)
    path = Path(getattr(image, "filename", ""))
    return (path.read_bytes()[_PNG_BITS],) if path.is_file() else (8,)
