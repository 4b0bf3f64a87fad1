"""Image decoding, validation and resizing.

Supported: PNG, JPEG and single-page TIFF with 8 bits per channel, in RGB, RGBA
(composited onto white, the background of a slide) or grayscale (replicated to three
channels). Orientation tags are not applied. Everything else raises `ImageError`.
"""

import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

SMALL_RULES = ("resize", "pad", "error")
VIEW_RULES = ("resize", "crop")
Corner = tuple[float, float]
_FORMATS = ("PNG", "JPEG", "TIFF")
_MODES = ("RGB", "RGBA", "L")
_MASK_MODES = ("L", "1")
_TIFF_BITS = 258  # tag BitsPerSample


class ImageError(ValueError):
    """An unusable image file; `kind` groups errors in a report."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Header:
    """Image file header: format, PIL mode, height and width."""

    format: str
    mode: str
    height: int
    width: int


def _bits(image: Image.Image, head: bytes) -> tuple[int, ...]:
    # PIL silently truncates 16-bit RGB to 8 bits.
    if image.format == "PNG":
        return (head[24],)
    if image.format == "TIFF":
        return tuple(image.tag_v2.get(_TIFF_BITS, (1,)))  # type: ignore[attr-defined]
    return (8,)


def _header(path: Path, image: Image.Image, head: bytes, modes: tuple[str, ...]):
    if image.format not in _FORMATS:
        raise ImageError(
            "unsupported image format",
            f"{path.name} is {image.format}; PNG, JPEG and TIFF are read",
        )
    if getattr(image, "n_frames", 1) != 1:
        raise ImageError(
            "several pages",
            f"{path.name} has {image.n_frames} pages or levels; "  # type: ignore[attr-defined]
            "save the intended one as a separate file",
        )
    bits = _bits(image, head)
    if image.mode not in modes or (image.mode != "1" and set(bits) != {8}):
        raise ImageError(
            "unsupported channels",
            f"{path.name} has mode {image.mode} with {max(bits)} bits; "
            f"expected 8 bits in {' or '.join(modes)}: convert the file",
        )
    return Header(image.format, image.mode, image.height, image.width)


def _open(path: Path, modes: tuple[str, ...], *, decode: bool) -> Header:
    try:
        with path.open("rb") as file:
            head = file.read(32)
        with Image.open(path) as image:
            header = _header(path, image, head, modes)
            if decode and image.format == "PNG":
                image.verify()  # checksums; PIL requires reopening afterwards
        if decode:
            with Image.open(path) as image:
                image.load()
        return header
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            "image too large", f"{path.name}: {error}; cut regions out of it first"
        ) from None
    except FileNotFoundError:
        raise ImageError("missing file", f"{path} does not exist") from None
    # PIL plugins also raise struct.error, IndexError and others on corrupt files.
    except Exception as error:
        raise ImageError(
            "unreadable image", f"{path.name}: {error or type(error).__name__}"
        ) from None


def read_header(path: Path) -> Header:
    """Reads an image file header and checks that the format is supported.

    Args:
      path: an image file.

    Returns:
      The header.

    Raises:
      ImageError: the file is not a supported image.
    """
    return _open(path, _MODES, decode=False)


def check_region(path: Path) -> Header:
    """Like `read_header`, but decodes every pixel, which detects truncated files."""
    return _open(path, _MODES, decode=True)


def check_mask(path: Path) -> Header:
    """Checks a mask: one channel with 8 bits or 1 bit; nonzero is foreground."""
    return _open(path, _MASK_MODES, decode=True)


def encode_region(path: Path) -> bytes:
    """Encodes an image for a store.

    8-bit RGB in PNG or JPEG is kept verbatim. Grayscale, RGBA and TIFF become RGB
    PNG, losslessly.

    Args:
      path: an image file.

    Returns:
      PNG or JPEG bytes that decode to RGB.

    Raises:
      ImageError: the file is not a supported image.
    """
    header = read_header(path)
    if header.mode == "RGB" and header.format in ("PNG", "JPEG"):
        return path.read_bytes()
    with Image.open(path) as image:
        if header.mode != "RGBA":
            return _png(image.convert("RGB"))
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return _png(Image.alpha_composite(white, image).convert("RGB"))


def encode_mask(path: Path) -> bytes:
    """Encodes a mask as one-channel PNG of 0 and 255; nonzero is foreground."""
    with Image.open(path) as image:
        inside = np.asarray(image.convert("L")) != 0
    return _png(Image.fromarray(inside.astype(np.uint8) * 255))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _pad(image: Image.Image, side: int, fill) -> Image.Image:
    height, width = max(image.height, side), max(image.width, side)
    canvas = Image.new(image.mode, (width, height), fill)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


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


def decode(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes PNG or JPEG bytes to RGB at the stored size."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.array(rgb)


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
    return fit_region(decode(data), side, small=small, name=name, corner=corner)


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


class quiet_decoding(warnings.catch_warnings):
    """Suppresses PIL warnings, but turns decompression-bomb warnings into errors.

    Not thread-safe: enter it before starting threads.
    """

    def __enter__(self):
        log = super().__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return log
