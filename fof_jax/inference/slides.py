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
from PIL import Image

from fof_jax.inference import tissue
from fof_jax.inference.compiled import BATCH
from fof_jax.inference.image_scale import TRAINING_MPP
from fof_jax.inference.model import has_map
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.predictor import Predictor
from fof_jax.inference.slide_file import level_0_mpp, on_white, open_slide, readable

_MAX_ENLARGED = 1.25  # scale of a slide relative to the training images'


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
        grid = tissue.find_tiles(slide, path, full=full, side=side, mpp=mpp)
        origins = grid.cells * full
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
        grid.warning,
        f"{len(strange)} of {len(origins)} tiles: {strange[0]}"
        if len(strange) > len(origins) / 2
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
        thumbnail=grid.thumbnail,
        ratio=grid.ratio,
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
        grid = tissue.find_tiles(slide, path, full=float(full), side=side, mpp=mpp)
        corners = grid.cells * full

        def read(i: int) -> np.ndarray:
            left, top = corners[i].tolist()
            return _tile(slide, float(left), float(top), full / side, side)

        yield SlideTiles(corners, full, slide.dimensions, scanned, read)
