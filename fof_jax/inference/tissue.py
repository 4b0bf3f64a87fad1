"""Tissue of a whole slide: segmentation of its thumbnail, and the tiles to predict."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageFilter

from fof_jax.inference import slide_file

MIN_TISSUE = 0.25  # minimum tissue fraction of a tile
_MAX_GLASS = 30  # of 255; median chroma of glass, also of tinted glass
_MIN_CHROMA = 15  # of 255; overrides a lower Otsu threshold on slides of pale glass
_MAX_OUTSIDE = 0.1  # of the tissue


@dataclasses.dataclass(frozen=True, eq=False)
class TissueGrid:
    """Tiles with tissue of a slide.

    Attributes:
      cells: column and row of each tile in the grid from the upper left corner.
      thumbnail: the slide at low resolution.
      ratio: thumbnail pixels per level-0 pixel.
      warning: of tissue at the right and lower border, in no whole tile; "" for none.
    """

    cells: Int[np.ndarray, "n 2"]
    thumbnail: UInt8[np.ndarray, "h w 3"]
    ratio: float
    warning: str


def find_tiles(
    slide: Any, path: Path, *, full: float, side: int, mpp: float
) -> TissueGrid:
    """Finds the tiles of an open slide that have enough tissue.

    Args:
      slide: of `slide_file.open_slide`.
      path: of its file, for messages.
      full: side of a tile in level-0 pixels.
      side: of a tile in pixels at `mpp`, for messages.
      mpp: micrometers per pixel of the tiles, for messages.

    Raises:
      ValueError: there is none.
    """
    width, height = slide.dimensions
    thumbnail = slide_file.thumbnail(slide)
    ratio = thumbnail.shape[1] / width
    mask = tissue_mask(thumbnail)
    cells = _tiles_with_tissue(mask, full * ratio, width / full, height / full)
    if not len(cells):
        raise ValueError(
            f"{path.name} has no tile of {side} pixels at {mpp} µm/pixel "
            f"with {MIN_TISSUE:.0%} tissue. Is the slide blank, or the scale wrong?"
        )
    return TissueGrid(cells, thumbnail, ratio, _border_warning(mask, full * ratio))


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


def _border_warning(mask: Bool[np.ndarray, "h w"], side: float) -> str:
    """Warning of tissue at the right and lower border, where no whole tile fits."""
    columns, rows = int(mask.shape[1] / side), int(mask.shape[0] / side)
    inside = mask[: round(rows * side), : round(columns * side)].sum()
    share = 1 - inside / mask.sum()
    if share <= _MAX_OUTSIDE:
        return ""
    return f"{share:.0%} of the tissue is at the border, in no whole tile"


def _tiles_with_tissue(
    mask: Bool[np.ndarray, "h w"], side: float, columns: float, rows: float
) -> Int[np.ndarray, "n 2"]:
    """Column and row of the grid tiles with enough tissue; partial tiles excluded."""
    cells = []
    for row in range(int(rows)):
        top = round(row * side)
        bottom = max(round((row + 1) * side), top + 1)
        for column in range(int(columns)):
            left = round(column * side)
            right = max(round((column + 1) * side), left + 1)
            part = mask[top:bottom, left:right]
            if part.size and part.mean() >= MIN_TISSUE:
                cells.append((column, row))
    return np.array(cells, np.int64).reshape(-1, 2)
