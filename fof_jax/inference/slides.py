"""Whole-slide files: tissue, tiles at the scale of training, grades over a thumbnail.

Reading is OpenSlide's (Goode et al., J Pathol Inform 2013), the extra `slides`.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter
from PIL.TiffImagePlugin import TiffImageFile

from fof_jax.inference.inputs import SLIDES
from fof_jax.inference.model import BATCH, Model
from fof_jax.inference.outputs import Grades

MPP = 0.5  # micrometres a pixel: 20x, the scale of the paper's regions
THUMBNAIL = 2048  # pixels of its longer side, at most
TISSUE = 0.25  # share of a tile that has to be tissue
_LEAST_CHROMA = 15  # of 255: what is paler than this is glass, whatever Otsu says


@dataclasses.dataclass(frozen=True, eq=False)
class SlideGrades:
    """Grades of the tissue of a slide.

    Attributes:
      grades: one row, the mean over its tiles; spread over folds as in `Grades`.
      tiles: probabilities of each tile, the mean over folds.
      corners: left and top of each tile in the thumbnail, its pixels.
      side: of a tile in the thumbnail, its pixels.
      thumbnail: the slide, small.
    """

    grades: Grades
    tiles: Float[np.ndarray, "n K"]
    corners: Float[np.ndarray, "n 2"]
    side: float
    thumbnail: UInt8[np.ndarray, "h w 3"]


def is_slide(path: Path) -> bool:
    """Whether a file is a whole slide: by its ending, or a TIFF of several levels."""
    if path.suffix.lower() in SLIDES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        # The head alone: PIL would take the size of a slide for a bomb.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            return TiffImageFile(file).n_frames > 1
    except Exception:  # broken: whoever reads it says how
        return False


def tissue(thumbnail: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where a thumbnail is stained: chroma above Otsu's threshold, specks removed.

    Chroma is the largest less the smallest of R, G, B. Otsu, IEEE Trans SMC 1979.
    """
    chroma = np.ptp(thumbnail.astype(np.int16), axis=2).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(chroma).filter(ImageFilter.MedianFilter(5)))
    counts = np.bincount(smooth.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    cut = int(np.argmax(np.nan_to_num(between, posinf=0)))
    return smooth > max(cut, _LEAST_CHROMA)


def grade(
    model: Model,
    path: Path,
    *,
    mpp: float = MPP,
    slide_mpp: float | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> SlideGrades:
    """Grades every tile of tissue of a slide; a few tiles are in memory at a time.

    Args:
      model: of `loading.load`.
      path: of a file that OpenSlide reads.
      mpp: micrometres a pixel of the images that the model was trained on.
      slide_mpp: of the slide at its full size, where the file does not say.
      progress: called with (done, of) tiles.

    Raises:
      ValueError: OpenSlide is not there or cannot read the file; no scale; no tissue.
    """
    if mpp <= 0:
        raise ValueError(f"mpp is {mpp}; expected micrometres a pixel, such as {MPP}.")
    with _opened(path) as slide:
        zoom = mpp / _scale(slide, path, slide_mpp)  # full-size pixels to one of ours
        side = tile_side(model)
        full = side * zoom  # of a tile, full-size pixels
        width, height = slide.dimensions
        small = np.array(_over_white(slide.get_thumbnail((THUMBNAIL, THUMBNAIL))))
        ratio = small.shape[1] / width
        corners = _with_tissue(tissue(small), full * ratio, width / full, height / full)
        if not len(corners):
            raise ValueError(
                f"{path.name} has no tile of {side} pixels at {mpp} µm/pixel "
                f"with {TISSUE:.0%} tissue. Is the slide blank, or the scale wrong?"
            )
        parts = []
        for first in range(0, len(corners), BATCH):
            some = corners[first : first + BATCH]
            cut = [_tile(slide, x * full, y * full, zoom, side) for x, y in some]
            seen = np.concatenate([model.see(tile).tiles for tile in cut])
            parts.append(model.of_folds(seen))
            progress(first + len(some), len(corners))
    each = np.concatenate(parts)  # [tiles, folds, K]
    of_folds = each.mean(axis=0)
    return SlideGrades(
        grades=Grades(
            prob=of_folds.mean(axis=0, keepdims=True),
            spread=of_folds.std(axis=0, keepdims=True),
            classes=model.classes,
            error=("",),
        ),
        tiles=each.mean(axis=1),
        corners=corners * full * ratio,
        side=full * ratio,
        thumbnail=small,
    )


def tile_side(model: Model) -> int:
    """Side of the images that training saw as files, in pixels: that of a tile."""
    if model.sides is None or model.config.data.test_view == "crop":
        return model.image_size
    return round(sum(model.sides) / 2)


def _opened(path: Path) -> Any:
    try:
        import openslide
    except ImportError:
        raise ValueError(
            f"{path.name}: a whole slide, or several pages, and OpenSlide is not "
            "installed. pip install -e '.[slides]', or save regions of it as files."
        ) from None
    try:
        return openslide.OpenSlide(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except openslide.OpenSlideError as fault:
        raise ValueError(
            f"{path.name}: not a slide that OpenSlide reads ({fault}). A TIFF has to "
            "be tiled; save single pages as files of their own."
        ) from None


def _scale(slide: Any, path: Path, given: float | None) -> float:
    """Micrometres a pixel at full size: given, written, or by the lens (10 / power)."""
    found = slide.properties
    written = found.get("openslide.mpp-x")
    power = found.get("openslide.objective-power")
    try:
        value = given or (float(written) if written else 10 / float(power or 0))
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0.01 < value < 100:
        raise ValueError(
            f"{path.name} does not say its scale (openslide.mpp-x is {written}, "
            f"objective power {power}). Pass --slide_mpp=0.25 for 40x, 0.5 for 20x."
        )
    return value


def _with_tissue(
    mask: Bool[np.ndarray, "h w"], side: float, columns: float, rows: float
) -> Int[np.ndarray, "n 2"]:
    """Column and row of the tiles of a grid that are tissue; whole tiles alone."""
    found = []
    for row in range(int(rows)):
        top, end = (
            round(row * side),
            max(round((row + 1) * side), round(row * side) + 1),
        )
        for column in range(int(columns)):
            left = round(column * side)
            right = max(round((column + 1) * side), left + 1)
            part = mask[top:end, left:right]
            if part.size and part.mean() >= TISSUE:
                found.append((column, row))
    return np.array(found, np.int64).reshape(-1, 2)


def _tile(
    slide: Any, left: float, top: float, zoom: float, side: int
) -> UInt8[np.ndarray, "S S 3"]:
    """A tile from the coarsest level that is fine enough, then brought to its side."""
    level = slide.get_best_level_for_downsample(zoom * 1.01)
    extent = max(1, round(side * zoom / slide.level_downsamples[level]))
    region = slide.read_region((round(left), round(top)), level, (extent, extent))
    square = _over_white(region)
    if extent != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)


def _over_white(image: Image.Image) -> Image.Image:
    """Glass that was not scanned is transparent: white, as the rest of it."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
