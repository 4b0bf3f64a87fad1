"""Whole-slide files: which files are slides, at which scale, and their thumbnail.

Slides are read with OpenSlide (Goode et al., J Pathol Inform 2013), and TIFFs that it
does not read with tifffile (`tiff_slide.py`); extra `slides`.
"""

import contextlib
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fof_jax.data import image_rules
from fof_jax.inference import tiff_slide
from fof_jax.inference.image_folder import DICOM, SLIDES, is_dicom
from fof_jax.inference.inputs import MPP_RANGE

THUMBNAIL = 2048  # maximum of its longer side, in pixels
_TIFF = (".tif", ".tiff")
_TILE_WIDTH, _SUB_IFDS = 322, 330  # TIFF tags
_BIG_TIFF = (b"\x2b\x00", b"\x00\x2b")
_TOLERANCE = 0.02  # relative difference of two scales that count as the same
_MAX_READ = 2**26  # pixels that a thumbnail reads at once
_BLOCK = 256  # side of a part of a thumbnail, in its pixels
_MICROMETRES = {"": 1.0, "µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


def is_slide(path: Path, longest: int = 0) -> bool:
    """Whether a file is a whole slide, read with OpenSlide, and not one image.

    Slides have a suffix of one, or are DICOM files, TIFFs of several pages or with
    levels in sub-IFDs, as in OME-TIFF, or tiled TIFFs larger than training images.

    Args:
      path: of the file.
      longest: longest side of the training images, in pixels.
    """
    suffix = path.suffix.lower()
    if suffix in (*SLIDES, *DICOM) or is_dicom(path):
        return True
    if suffix not in _TIFF:
        return False
    try:
        # Reads the header only, which avoids PIL's decompression-bomb check.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            head = file.read(8)
            head += file.read(8) if head[2:4] in _BIG_TIFF else b""
            tags = ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            large = max(int(tags[256]), int(tags[257])) > longest
            tiled = _TILE_WIDTH in tags and large
            return bool(tags.next) or _SUB_IFDS in tags or tiled
    except Exception:  # damaged: reported when the image is read
        return False


def open_slide(path: Path) -> Any:
    """Opens a slide with OpenSlide, or a TIFF that it does not read with tifffile.

    Raises:
      ValueError: OpenSlide is not installed, or neither can read the file.
    """
    try:
        import openslide
    except ImportError:
        raise ValueError(
            f"{path.name}: a whole slide, a tiled TIFF or one of several pages, and "
            "OpenSlide is not installed. pip install -e '.[slides]', or save regions "
            "as images."
        ) from None
    try:
        slide = openslide.OpenSlide(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except openslide.OpenSlideUnsupportedFormatError as error:
        if path.suffix.lower() in _TIFF:
            return tiff_slide.TiffSlide(path)
        raise _unreadable(path, error) from None
    except openslide.OpenSlideError as error:
        raise _unreadable(path, error) from None
    is_ome = "<OME" in slide.properties.get("tiff.ImageDescription", "")
    if is_ome and tiff_slide.has_channel_pages(path):
        slide.close()
        return tiff_slide.TiffSlide(path)
    return slide


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path.name}: not a slide that OpenSlide reads ({error}). Copy it again, or "
        "save regions of it as images."
    )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns OpenSlide's error about damaged data into a ValueError: a row's reason."""
    try:
        yield
    except Exception as error:
        openslide = sys.modules.get("openslide")  # an extra: perhaps not installed
        if openslide is None or not isinstance(error, openslide.OpenSlideError):
            raise
        raise ValueError(
            f"{path.name}: a part of the slide cannot be read ({error}). Copy the file "
            "again, or save regions of it as images."
        ) from None


def level_0_mpp(
    properties: Mapping[str, str], path: Path, given: float | None
) -> tuple[float, str]:
    """Micrometres per pixel at level 0: as the file states it, else as given.

    The file's scale is that of its OME metadata, OpenSlide's mpp, or 10 / objective
    power. A print resolution, such as 300 dpi, is no scale.

    Args:
      properties: of the slide, by OpenSlide's names.
      path: of the slide, for messages.
      given: of the user, for files that state none.

    Returns:
      The scale, and a warning where the given one is not used; "" otherwise.

    Raises:
      ValueError: no scale, or pixels that are not square.
    """
    stated = _stated_mpp(properties)
    low, high = MPP_RANGE
    resolution = "none"
    if stated is not None:
        x, y = stated
        resolution = f"{x:.4g} x {y:.4g} µm/pixel"
        if low <= min(x, y) and max(x, y) <= high:
            if not math.isclose(x, y, rel_tol=_TOLERANCE):
                raise ValueError(
                    f"{path.name} states pixels of {x:.4g} x {y:.4g} µm; expected "
                    "square ones. Save it with square pixels."
                )
            mean = (x + y) / 2
            if given is None or math.isclose(mean, given, rel_tol=_TOLERANCE):
                return mean, ""
            return mean, (
                f"the file states {mean:.4g} µm/pixel: --slide_mpp={given:g} is for "
                "files that state none, and is not used"
            )
    if given is None:
        raise ValueError(
            f"{path.name} has no valid resolution (stated: {resolution}; expected "
            f"{low} to {high:g} µm/pixel). Pass --slide_mpp=0.25 for 40x, 0.5 for 20x."
        )
    return given, ""


def _stated_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Horizontal and vertical micrometres per pixel that a file states."""
    ome = properties.get("tiff.ImageDescription", "")
    if "<OME" in ome:
        sizes = [_ome_size(ome, axis) for axis in "XY"]
        if sizes[0] and sizes[1]:
            return sizes[0], sizes[1]
    try:
        if "openslide.mpp-x" in properties:
            x = float(properties["openslide.mpp-x"])
            y = float(properties.get("openslide.mpp-y", x))
        else:
            x = y = 10 / float(properties["openslide.objective-power"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _ome_size(text: str, axis: str) -> float | None:
    """PhysicalSizeX or Y of the first image of OME-XML, in micrometres."""
    size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', text)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', text)
    factor = _MICROMETRES.get(unit[1].replace("\u03bc", "µ") if unit else "")
    try:
        return float(size[1]) * factor if size and factor else None
    except ValueError:
        return None


def thumbnail(slide: Any) -> UInt8[np.ndarray, "h w 3"]:
    """The slide at low resolution, on white; reads bounded parts of a large level."""
    width, height = slide.dimensions
    scale = max(1.0, max(width, height) / THUMBNAIL)
    level = slide.get_best_level_for_downsample(scale)
    across, down = slide.level_dimensions[level]
    if across * down <= _MAX_READ:
        return np.array(on_white(slide.get_thumbnail((THUMBNAIL, THUMBNAIL))))
    out = Image.new("RGB", (max(1, int(width / scale)), max(1, int(height / scale))))
    step = scale / slide.level_downsamples[level]  # level pixels per pixel
    for top in range(0, out.height, _BLOCK):
        for left in range(0, out.width, _BLOCK):
            size = min(_BLOCK, out.width - left), min(_BLOCK, out.height - top)
            at = round(left * scale), round(top * scale)
            extent = max(1, round(size[0] * step)), max(1, round(size[1] * step))
            part = on_white(slide.read_region(at, level, extent))
            out.paste(part.resize(size, Image.Resampling.BOX), (left, top))
    return np.array(out)


def on_white(image: Image.Image) -> Image.Image:
    """Composites on white: unscanned areas are transparent."""
    return image_rules.on_white(image.convert("RGBA"))
