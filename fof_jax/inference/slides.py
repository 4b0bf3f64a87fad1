"""Whole-slide inference: tissue detection, tiling at the training scale, aggregation.

Slides are read with OpenSlide (Goode et al., J Pathol Inform 2013), extra `slides`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter

from fof_jax.inference import slide_file
from fof_jax.inference.image_scale import TRAINING_MPP
from fof_jax.inference.model import has_map
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.predictor import BATCH, Predictor
from fof_jax.inference.slide_file import level_0_mpp, on_white, open_slide, readable

MIN_TISSUE = 0.25  # minimum tissue fraction of a tile
_MAX_GLASS = 30  # of 255; median chroma of glass, also of tinted glass
_MIN_CHROMA = 15  # of 255; overrides a lower Otsu threshold on slides of pale glass


_MAX_ENLARGED = 1.25  # scale of a slide relative to the training images'
_MAX_OUTSIDE = 0.1  # of the tissue


@dataclasses.dataclass(frozen=True, eq=False)
class SlidePrediction:
    """Predicted grades of a slide and its tissue tiles.

    Attributes:
      grades: one row, the mean over tiles; spread over folds as in `GradePredictions`.
      tiles: probabilities of each tile, mean over folds.
      corners: left and top of each tile, in level-0 pixels.
      side: of a tile, in level-0 pixels.
      mpp: micrometers per pixel at level 0.
      map_means: mean of A over each tile, for its predicted class; None without maps.
      keep: M of each tile, one value per patch; None without maps.
      thumbnail: the slide at low resolution.
      ratio: thumbnail pixels per level-0 pixel.
    """

    grades: GradePredictions
    tiles: Float[np.ndarray, "n K"]
    corners: Float[np.ndarray, "n 2"]
    side: float
    mpp: float
    map_means: Float[np.ndarray, " n"] | None
    keep: Bool[np.ndarray, "n p q"] | None
    thumbnail: UInt8[np.ndarray, "h w 3"]
    ratio: float


def tissue_mask(thumbnail: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Segments tissue: chroma above Otsu's threshold after a median filter.

    Chroma is max - min of R, G, B. Where what lies below the threshold is too colored
    for glass, the slide is stained to its edges, and Otsu's threshold would divide the
    tissue: there is no glass to divide it from. Otsu, IEEE Trans SMC 1979.
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
    glass = smooth[smooth <= threshold]
    if glass.size and np.median(glass) > _MAX_GLASS:
        threshold = _MIN_CHROMA
    return smooth > max(threshold, _MIN_CHROMA)


def predict_slide(
    model: Predictor,
    path: Path,
    *,
    mpp: float = TRAINING_MPP,
    slide_mpp: float | None = None,
    maps: bool = False,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SlidePrediction:
    """Predicts every tissue tile of a slide with bounded memory, and averages.

    Args:
      model: of `load.load`.
      path: a file in a format of OpenSlide.
      mpp: micrometres per pixel of the training images.
      slide_mpp: of the slide at level 0, if its file does not state it.
      maps: whether to compute A and M of each tile, Eq. (1) and (2); the model has to
        have a map.
      report_progress: called with (done, total) tiles.

    Raises:
      ValueError: OpenSlide is not installed or cannot read the file; unknown
        resolution; no tissue.
    """
    if mpp <= 0:
        raise ValueError(
            f"mpp is {mpp}; expected micrometres per pixel, such as {TRAINING_MPP}."
        )
    with readable(path), open_slide(path) as slide:
        scanned, warning = level_0_mpp(slide.properties, path, slide_mpp)
        zoom = mpp / scanned  # level-0 pixels per pixel
        side = tile_side(model)
        full = side * zoom  # tile side in level-0 pixels
        width, height = slide.dimensions
        thumbnail = slide_file.thumbnail(slide)
        ratio = thumbnail.shape[1] / width
        mask = tissue_mask(thumbnail)
        corners = _tissue_tiles(mask, full * ratio, width / full, height / full)
        if not len(corners):
            raise ValueError(
                f"{path.name} has no tile of {side} pixels at {mpp} µm/pixel "
                f"with {MIN_TISSUE:.0%} tissue. Is the slide blank, or the scale wrong?"
            )
        origins = corners * full
        prob, strange, focus = _predict_tiles(
            model,
            lambda x, y: _tile(slide, x, y, zoom, side),
            origins,
            maps=maps,
            report_progress=report_progress,
        )
    warnings = [
        warning,
        _coarse(scanned, mpp),
        _outside(mask, corners, full * ratio),
        f"{len(strange)} of {len(corners)} tiles: {strange[0]}"
        if len(strange) > len(corners) / 2
        else "",
    ]
    per_fold = prob.mean(axis=0)
    return SlidePrediction(
        grades=GradePredictions(
            prob=per_fold.mean(axis=0, keepdims=True),
            spread=per_fold.std(axis=0, keepdims=True),
            classes=model.classes,
            error=("",),
            warning=("; ".join(filter(None, warnings)),),
        ),
        tiles=prob.mean(axis=1),
        corners=origins,
        side=full,
        mpp=scanned,
        map_means=np.concatenate([mean for mean, _ in focus]) if focus else None,
        keep=np.concatenate([keep for _, keep in focus]) if focus else None,
        thumbnail=thumbnail,
        ratio=ratio,
    )


_Focus = list[tuple[np.ndarray, np.ndarray]]  # map means and M, batch by batch


def _predict_tiles(
    model: Predictor,
    read: Callable[[float, float], np.ndarray],
    origins: Float[np.ndarray, "n 2"],
    *,
    maps: bool,
    report_progress: Callable[[int, int], None],
) -> tuple[Float[np.ndarray, "n F K"], list[str], _Focus]:
    """Probabilities of tiles by fold, their warnings, and their maps if asked for."""
    parts, warnings = [], []
    focus: _Focus = []
    for first in range(0, len(origins), BATCH):
        batch = origins[first : first + BATCH]
        prepared = [model.preprocess(read(x, y)) for x, y in batch]
        warnings += [one.warning for one in prepared if one.warning]
        tiles = np.concatenate([one.tiles for one in prepared])
        parts.append(model.fold_probabilities(tiles))
        if maps and has_map(model):
            best = parts[-1].mean(axis=1).argmax(axis=1)
            A, keep = model.tile_maps(tiles, best)
            focus.append((A.mean(axis=(1, 2)), keep))
        report_progress(first + len(batch), len(origins))
    return np.concatenate(parts), warnings, focus


def tile_side(model: Predictor) -> int:
    """Side of a tile in pixels: the mean side of the training images before resizing.

    With `test_view` "crop", where images are not resized, it is the input size.
    """
    if model.sides is None or model.config.data.test_view == "crop":
        return model.image_size
    return round(sum(model.sides) / 2)


def _coarse(scanned: float, mpp: float) -> str:
    """Warning of a slide that has fewer details than the training images."""
    if scanned <= mpp * _MAX_ENLARGED:
        return ""
    return (
        f"scanned at {scanned:.4g} µm/pixel, coarser than the {mpp:g} of the training "
        "images: enlarged"
    )


def _outside(
    mask: Bool[np.ndarray, "h w"], corners: Int[np.ndarray, "n 2"], side: float
) -> str:
    """Warning of tissue at the right and lower border, where no whole tile fits."""
    columns, rows = int(mask.shape[1] / side), int(mask.shape[0] / side)
    inside = mask[: round(rows * side), : round(columns * side)].sum()
    share = 1 - inside / mask.sum()
    if share <= _MAX_OUTSIDE:
        return ""
    return f"{share:.0%} of the tissue is at the border, in no whole tile"


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
    square = on_white(region)
    if extent != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)


@dataclasses.dataclass(frozen=True, eq=False)
class SlideTiles:
    """Tissue tiles of an open slide.

    Attributes:
      corners: left and top of each tile, in level-0 pixels.
      full: side of a tile in level-0 pixels.
      size: width and height of the slide in level-0 pixels.
      mpp: micrometers per level-0 pixel.
      read: pixels of tile i at the scale that was asked for.
    """

    corners: Int[np.ndarray, "n 2"]
    full: int
    size: tuple[int, int]
    mpp: float
    read: Callable[[int], np.ndarray]


@contextlib.contextmanager
def open_tiles(
    path: Path, *, side: int, mpp: float, slide_mpp: float | None = None
) -> Iterator[SlideTiles]:
    """Opens the tissue tiles of a slide, as `predict_slide` takes them.

    Args:
      path: a file in a format of OpenSlide.
      side: of a tile in pixels at `mpp`.
      mpp: micrometers per pixel of the tiles.
      slide_mpp: of the slide at level 0, if its file does not state it.

    Raises:
      ValueError: as `predict_slide`.
    """
    with readable(path), open_slide(path) as slide:
        scanned, _ = level_0_mpp(slide.properties, path, slide_mpp)
        zoom = mpp / scanned
        # Whole level-0 pixels, so that the corners lie on one grid.
        full = max(1, round(side * zoom))
        width, height = slide.dimensions
        thumbnail = slide_file.thumbnail(slide)
        ratio = thumbnail.shape[1] / width
        mask = tissue_mask(thumbnail)
        cells = _tissue_tiles(mask, full * ratio, width / full, height / full)
        if not len(cells):
            raise ValueError(
                f"{path.name} has no tile of {side} pixels at {mpp} µm/pixel "
                f"with {MIN_TISSUE:.0%} tissue. Is the slide blank, or the scale wrong?"
            )
        corners = cells * full

        def read(i: int) -> np.ndarray:
            left, top = corners[i].tolist()
            return _tile(slide, float(left), float(top), full / side, side)

        yield SlideTiles(corners, full, (width, height), scanned, read)
