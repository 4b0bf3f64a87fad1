"""Image decoding and validation; `image_rules` says what is accepted."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fof_jax.data import image_rules
from fof_jax.data.image_rules import Header, ImageError

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


def decode(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes PNG or JPEG bytes to RGB at the stored size."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.array(rgb)


class quiet_decoding(warnings.catch_warnings):
    """Suppresses PIL warnings, but turns decompression-bomb warnings into errors.

    Not thread-safe: enter it before starting threads.
    """

    def __enter__(self):
        log = super().__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return log
