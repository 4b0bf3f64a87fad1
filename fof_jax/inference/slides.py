"""Whole-slide inference: tissue detection, tiling at the training scale, aggregation.

Slides are read with OpenSlide (Goode et al., J Pathol Inform 2013), extra `slides`.
"""

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter
from PIL.TiffImagePlugin import TiffImageFile

from fof_jax.data import image_rules
from fof_jax.inference.inputs import SLIDES
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.predictor import BATCH, Predictor

MPP = 0.5  # micrometres per pixel: 20x, the scale of the paper's regions
THUMBNAIL = 2048  # maximum of its longer side, in pixels
MIN_TISSUE = 0.25  # minimum tissue fraction of a tile
_MIN_CHROMA = 15  # of 255; overrides a lower Otsu threshold on slides of pale glass


@dataclasses.dataclass(frozen=True, eq=False)
class SlidePrediction:
    """Predicted grades of a slide and its tissue tiles.

    Attributes:
      grades: one row, the mean over tiles; spread over folds as in `GradePredictions`.
      tiles: probabilities of each tile, mean over folds.
      corners: left and top of each tile, in thumbnail pixels.
      side: of a tile, in thumbnail pixels.
      thumbnail: the slide at low resolution.
    """

    grades: GradePredictions
    tiles: Float[np.ndarray, "n K"]
    corners: Float[np.ndarray, "n 2"]
    side: float
    thumbnail: UInt8[np.ndarray, "h w 3"]


def is_slide(path: Path) -> bool:
    """Whether a file is a whole slide: by its suffix, or a TIFF of several pages."""
    if path.suffix.lower() in SLIDES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        # Reads the header only, which avoids PIL's decompression-bomb check.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            return TiffImageFile(file).n_frames > 1
    except Exception:  # damaged: reported when the image is read
        return False


def tissue_mask(thumbnail: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Segments tissue: chroma above Otsu's threshold after a median filter.

    Chroma is max - min of R, G, B. Otsu, IEEE Trans SMC 1979.
    """
    chroma = np.ptp(thumbnail.astype(np.int16), axis=2).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(chroma).filter(ImageFilter.MedianFilter(5)))
    counts = np.bincount(smooth.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    threshold = int(np.argmax(np.nan_to_num(between, posinf=0)))
    return smooth > max(threshold, _MIN_CHROMA)


def predict_slide(
    model: Predictor,
    path: Path,
    *,
    mpp: float = MPP,
    slide_mpp: float | None = None,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SlidePrediction:
    """Predicts every tissue tile of a slide with bounded memory, and averages.

    Args:
      model: of `load.load`.
      path: a file in a format of OpenSlide.
      mpp: micrometres per pixel of the training images.
      slide_mpp: of the slide at level 0; None reads it from the file.
      report_progress: called with (done, total) tiles.

    Raises:
      ValueError: OpenSlide is not installed or cannot read the file; unknown
        resolution; no tissue.
    """
    if mpp <= 0:
        raise ValueError(
            f"mpp is {mpp}; expected micrometres per pixel, such as {MPP}."
        )
    with _readable(path), _open(path) as slide:
        zoom = mpp / _level_0_mpp(slide, path, slide_mpp)  # level-0 pixels per pixel
        side = tile_side(model)
        full = side * zoom  # tile side in level-0 pixels
        width, height = slide.dimensions
        thumbnail = np.array(_on_white(slide.get_thumbnail((THUMBNAIL, THUMBNAIL))))
        ratio = thumbnail.shape[1] / width
        mask = tissue_mask(thumbnail)
        corners = _tissue_tiles(mask, full * ratio, width / full, height / full)
        if not len(corners):
            raise ValueError(
                f"{path.name} has no tile of {side} pixels at {mpp} µm/pixel "
                f"with {MIN_TISSUE:.0%} tissue. Is the slide blank, or the scale wrong?"
            )
        parts = []
        for first in range(0, len(corners), BATCH):
            batch = corners[first : first + BATCH]
            regions = [_tile(slide, x * full, y * full, zoom, side) for x, y in batch]
            tiles = [model.preprocess(region).tiles for region in regions]
            parts.append(model.fold_probabilities(np.concatenate(tiles)))
            report_progress(first + len(batch), len(corners))
    prob = np.concatenate(parts)  # [tiles, F, K]
    per_fold = prob.mean(axis=0)
    return SlidePrediction(
        grades=GradePredictions(
            prob=per_fold.mean(axis=0, keepdims=True),
            spread=per_fold.std(axis=0, keepdims=True),
            classes=model.classes,
            error=("",),
        ),
        tiles=prob.mean(axis=1),
        corners=corners * full * ratio,
        side=full * ratio,
        thumbnail=thumbnail,
    )


def tile_side(model: Predictor) -> int:
    """Side of a tile in pixels: the mean side of the training images before resizing.

    With `test_view` "crop", where images are not resized, it is the input size.
    """
    if model.sides is None or model.config.data.test_view == "crop":
        return model.image_size
    return round(sum(model.sides) / 2)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
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


def _open(path: Path) -> Any:
    try:
        import openslide
    except ImportError:
        raise ValueError(
            f"{path.name}: a whole slide or a TIFF of several pages, and OpenSlide is "
            "not installed. pip install -e '.[slides]', or save regions as images."
        ) from None
    try:
        return openslide.OpenSlide(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except openslide.OpenSlideError as error:
        raise ValueError(
            f"{path.name}: not a slide that OpenSlide reads ({error}). A TIFF has to "
            "be tiled; save the pages as separate files."
        ) from None


def _level_0_mpp(slide: Any, path: Path, override: float | None) -> float:
    """Micrometres per pixel at level 0: override, metadata, or 10 / objective power."""
    written = slide.properties.get("openslide.mpp-x")
    power = slide.properties.get("openslide.objective-power")
    try:
        value = override or (float(written) if written else 10 / float(power or 0))
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0.01 < value < 100:
        raise ValueError(
            f"{path.name} has no valid resolution (openslide.mpp-x is {written}, "
            f"objective power {power}). Pass --slide_mpp=0.25 for 40x, 0.5 for 20x."
        )
    return value


def _tissue_tiles(
    mask: Bool[np.ndarray, "h w"], side: float, columns: float, rows: float
) -> Int[np.ndarray, "n 2"]:
    """Column and row of the grid tiles with enough tissue; partial tiles excluded."""
    found = []
    for row in range(int(rows)):
        top = round(row * side)
        bottom = max(round((row + 1) * side), top + 1)
        for column in range(int(columns)):
            left = round(column * side)
            right = max(round((column + 1) * side), left + 1)
            part = mask[top:bottom, left:right]
            if part.size and part.mean() >= MIN_TISSUE:
                found.append((column, row))
    return np.array(found, np.int64).reshape(-1, 2)


def _tile(
    slide: Any, left: float, top: float, zoom: float, side: int
) -> UInt8[np.ndarray, "S S 3"]:
    """Reads a tile at the coarsest sufficient level, then resizes it to `side`."""
    level = slide.get_best_level_for_downsample(zoom * 1.01)
    extent = max(1, round(side * zoom / slide.level_downsamples[level]))
    region = slide.read_region((round(left), round(top)), level, (extent, extent))
    square = _on_white(region)
    if extent != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)


def _on_white(image: Image.Image) -> Image.Image:
    """Composites on white: unscanned areas are transparent."""
    return image_rules.on_white(image.convert("RGBA"))
