"""Image decoding, validation and resizing; `image_rules` says what is accepted."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from fof_jax.data import image_rules
from fof_jax.data.image_rules import Header, ImageError

SMALL_RULES = ("resize", "pad", "error")
VIEW_RULES = ("resize", "crop")
Corner = tuple[float, float]

# jaxtyping: "_" is not bound, so that images of a list may differ in size.
ImageLike = str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]


@contextlib.contextmanager
def _reading(name: str, path: Path | None = None) -> Iterator[None]:
    """Turns what PIL raises on an image into `ImageError`s that name it."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            "image too large", f"{name}: {error}; cut regions out of it first"
        ) from None
    except FileNotFoundError:
        windows = (
            " (its path is one of Windows: write / for \\)" if "\\" in name else ""
        )
        raise ImageError(
            "missing file", f"{path or name} does not exist{windows}"
        ) from None
    # PIL plugins also raise struct.error, IndexError and others on corrupt files.
    except Exception as error:
        raise ImageError(
            "unreadable image", f"{name}: {error or type(error).__name__}"
        ) from None


def _open(path: Path, modes: tuple[str, ...], *, decode: bool) -> Header:
    with _reading(path.name, path):
        with Image.open(path) as image:
            header = image_rules.check(image, path.name, modes)
            if decode and image.format == "PNG":
                image.verify()  # checksums; PIL requires reopening afterwards
        if decode:
            with Image.open(path) as image:
                image.load()
        return header


def read(image: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels of a file, a PIL image or an array, by the rules of `image_rules`.

    Args:
      image: a file, a PIL image, or an RGB array of 0-255.

    Raises:
      ImageError: it is not accepted.
    """
    if isinstance(image, np.ndarray):
        return image_rules.check_array(image)
    with quiet_decoding():
        if isinstance(image, Image.Image):
            with _reading("image"):
                image_rules.check(image, "image")
                return np.array(image_rules.to_rgb(image))
        path = Path(image)
        check_region(path)
        return decode(encode_region(path))


def read_header(path: Path) -> Header:
    """Reads an image file header and checks that the format is supported.

    Args:
      path: an image file.

    Returns:
      The header.

    Raises:
      ImageError: the file is not a supported image.
    """
    return _open(path, image_rules.REGION_MODES, decode=False)


def check_region(path: Path) -> Header:
    """Like `read_header`, but decodes every pixel, which detects truncated files."""
    return _open(path, image_rules.REGION_MODES, decode=True)


def check_mask(path: Path) -> Header:
    """Checks a mask: one channel with 8 bits or 1 bit; nonzero is foreground."""
    return _open(path, image_rules.MASK_MODES, decode=True)


def encode_region(path: Path) -> bytes:
    """Encodes an image for a store.

    8-bit RGB in PNG or JPEG is kept verbatim. Grayscale, transparency and TIFF become
    RGB PNG, losslessly.

    Args:
      path: an image file.

    Returns:
      PNG or JPEG bytes that decode to RGB.

    Raises:
      ImageError: the file is not a supported image.
    """
    header = read_header(path)
    with _reading(path.name, path), Image.open(path) as image:
        transparent = image_rules.has_transparent_color(image)
        if header.mode != "RGB" or header.format == "TIFF" or transparent:
            return _png(image_rules.to_rgb(image))
    return path.read_bytes()


def encode_mask(path: Path) -> bytes:
    """Encodes a mask as one-channel PNG of 0 and 255; nonzero is foreground."""
    with _reading(path.name, path), Image.open(path) as image:
        inside = np.asarray(image_rules.as_stored(image).convert("L")) != 0
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


class quiet_decoding(warnings.catch_warnings):
    """Suppresses PIL warnings, but turns decompression-bomb warnings into errors.

    Not thread-safe: enter it before starting threads.
    """

    def __enter__(self):
        log = super().__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return log
