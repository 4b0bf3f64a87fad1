"""Pictures of the map over the patches of a bag: over the slide, or its coordinates."""

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fof_jax.inference import visualization
from fof_jax.inference.bag_slides import Placed

GLASS = 244  # gray level where there is no slide
_SHARE = 0.6  # of the color of A over a slide, as in `visualization.overlay`
_UNITS = {"px": "level-0 pixels", "um": "micrometers"}


def plot(path: Path, *, A: Float[np.ndarray, " N"], placed: Placed, title: str) -> None:
    """Writes a PNG: the slide and A over it; without a slide, A at the coordinates.

    Args:
      path: the file, written atomically.
      A: map, 0-1.
      placed: the patches.
      title: of the figure.
    """
    if placed.thumbnail is None:
        low, high = placed.corners.min(axis=0), placed.corners.max(axis=0) + placed.side
    else:
        low, high = np.zeros(2), np.array(placed.thumbnail.shape[1::-1]) / placed.ratio
    aspect = float(np.clip((high[0] - low[0]) / (high[1] - low[1]), 0.25, 4))
    panels = 1 if placed.thumbnail is None else 2
    height = min(6.0, (9.0 if panels == 1 else 7.0) / aspect)
    figure = Figure(
        figsize=(panels * max(height * aspect, 3.0) + 1.2, height + 1),
        layout="constrained",
    )
    row = figure.subplots(1, panels, squeeze=False)[0]
    axes = row[-1]
    squares = PatchCollection(
        [Rectangle((x, y), placed.side, placed.side) for x, y in placed.corners],
        cmap=visualization.COLORMAP,
        norm=Normalize(0, 1),
        linewidths=0,
        alpha=None if placed.thumbnail is None else _SHARE,
    )
    squares.set_array(A)
    if placed.thumbnail is not None:
        extent = (low[0], high[0], high[1], low[1])
        row[0].imshow(placed.thumbnail, extent=extent)
        row[0].set_title("slide", fontsize=9)
        row[0].set_axis_off()
        gray = placed.thumbnail.mean(axis=2)
        axes.imshow(gray, cmap="gray", vmin=0, vmax=255, extent=extent)
        axes.set_title(f"A of {len(A)} patches", fontsize=9)
    axes.add_collection(squares)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(high[1], low[1])
    axes.set_aspect("equal")
    axes.set_xlabel(f"x, {_UNITS[placed.unit]}", fontsize=8)
    axes.set_ylabel("y", fontsize=8)
    axes.tick_params(labelsize=7)
    scale = matplotlib.cm.ScalarMappable(Normalize(0, 1), visualization.COLORMAP)
    figure.colorbar(scale, ax=axes, label="A (0 low, 1 high)", fraction=0.05)
    visualization.save(figure, path, title)


def raster(
    placed: Placed,
    colors: Float[np.ndarray, "N 3"] | None,
    *,
    shown: Bool[np.ndarray, " N"] | None = None,
    side: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a slide with patches as an image, with the patches in colors.

    Args:
      placed: the patches.
      colors: of the patches, 0-255, over the slide in gray; None leaves the slide.
      shown: False for patches to leave out; None for all.
      side: the longer side of the image, in pixels.
    """
    low = placed.corners.min(axis=0)
    span = placed.corners.max(axis=0) + placed.side - low
    scale = side / span.max()  # image pixels per unit
    width, height = np.maximum(np.round(span * scale).astype(int), 1).tolist()
    image = np.full((height, width, 3), float(GLASS))
    if placed.thumbnail is not None:
        rows = (np.arange(height) / scale + low[1]) * placed.ratio
        columns = (np.arange(width) / scale + low[0]) * placed.ratio
        tall, wide = placed.thumbnail.shape[:2]
        at = np.ix_(
            np.minimum(rows.astype(int), tall - 1),
            np.minimum(columns.astype(int), wide - 1),
        )
        image[:] = placed.thumbnail[at]
    if colors is None:
        return image.astype(np.uint8)
    gray = image.mean(axis=2, keepdims=True)
    share = 1.0 if placed.thumbnail is None else _SHARE
    image[:] = gray
    starts = np.floor((placed.corners - low) * scale).astype(int)
    ends = np.maximum(
        np.floor((placed.corners - low + placed.side) * scale).astype(int), starts + 1
    )
    for i, ((left, top), (right, below)) in enumerate(zip(starts, ends, strict=True)):
        if shown is None or shown[i]:
            part = slice(top, below), slice(left, right)
            image[part] = share * colors[i] + (1 - share) * gray[part]
    return np.round(image).astype(np.uint8)


def heat(A: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
    """Colors of a map, 0-255."""
    return matplotlib.colormaps[visualization.COLORMAP](A)[:, :3] * 255
