"""Plots of class activation maps, patch masks and slide grades."""

import gc
import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

from fof_jax import files

COLORMAP = "viridis"  # perceptually uniform
MASKED = 128  # gray level of masked patches
_DPI = 150
_MAX_SIDE = 1024  # of an image in a plot, in pixels; larger ones are subsampled


def class_colors(count: int) -> Float[np.ndarray, "K 4"]:
    """RGBA of the K classes, 0-1, in order."""
    return matplotlib.colormaps[COLORMAP](np.linspace(0, 1, count))


def overlay(
    pixels: UInt8[np.ndarray, "H W 3"], A: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A color-coded over the image in gray."""
    heat = matplotlib.colormaps[COLORMAP](A)[..., :3] * 255
    gray = pixels.mean(axis=2, keepdims=True)
    return np.round(0.6 * heat + 0.4 * gray).astype(np.uint8)


def masked(
    pixels: UInt8[np.ndarray, "H W 3"], keep: Bool[np.ndarray, "h w"], *, patch: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with the patches outside a mask in gray.

    A border narrower than a patch is gray as well.

    Args:
      pixels: of the image.
      keep: False for patches to hide.
      patch: side of a patch, in pixels; 1 for a mask of pixels.
    """
    full = np.zeros(pixels.shape[:2], bool)
    inside = np.kron(keep, np.ones((patch, patch), bool))
    full[: inside.shape[0], : inside.shape[1]] = inside
    return np.where(full[..., None], pixels, np.uint8(MASKED))


def plot_explanation(
    path: Path,
    *,
    pixels: UInt8[np.ndarray, "H W 3"],
    A: Float[np.ndarray, "H W"],
    keep: Bool[np.ndarray, "h w"],
    patch: int,
    title: str,
) -> None:
    """Writes a PNG: the image, A over it with a color bar, kept and masked patches.

    Args:
      path: the file, written atomically.
      pixels: the image at the model's scale.
      A: Eq. (1), 0-1.
      keep: M of Eq. (2).
      patch: side of a patch of M, in pixels.
      title: of the figure.
    """
    fraction = keep.mean()
    kept = "<0.1%" if 0 < fraction < 0.001 else f"{fraction:.1%}"
    step = -(-max(pixels.shape[:2]) // _MAX_SIDE)
    panels = (
        ("image", pixels),
        ("A, Eq. (1)", overlay(pixels, A)),
        (f"patches kept by M ({kept})", masked(pixels, keep, patch=patch)),
        ("patches masked", masked(pixels, ~keep, patch=patch)),
    )
    aspect = pixels.shape[0] / pixels.shape[1]
    # Wide enough for the panel titles, tall enough for the color bar.
    width = 3.2 if aspect <= 1.5 else max(4.8 / aspect, 2.2)
    height = min(max(width * aspect, 1.8), 4.8)
    figure = Figure(figsize=(4 * width + 1.2, height + 1), layout="constrained")
    row = figure.subplots(1, len(panels))
    for axes, (label, image) in zip(row, panels, strict=True):
        axes.imshow(image[::step, ::step], interpolation="nearest")
        axes.set_title(label, fontsize=9)
        hide_axis(axes)
    scale = ScalarMappable(Normalize(0, 1), COLORMAP)
    figure.colorbar(scale, ax=row[1], label="A (0 low, 1 high)", fraction=0.05)
    save(figure, path, title)


def plot_slide(
    path: Path,
    *,
    thumbnail: UInt8[np.ndarray, "h w 3"],
    tiles: Float[np.ndarray, "n K"],
    corners: Float[np.ndarray, "n 2"],
    side: float,
    classes: Sequence[str],
    title: str,
) -> None:
    """Writes a PNG: a slide, and the predicted grade of each tile over it.

    Args:
      path: the file, written atomically.
      thumbnail: the slide.
      tiles: probabilities of each tile; opacity shows the largest.
      corners: left and top of each tile, in thumbnail pixels.
      side: of a tile, in thumbnail pixels.
      classes: names of the K classes, in order.
      title: of the figure.
    """
    colors = class_colors(len(classes))
    best = tiles.argmax(axis=1)
    confidence = tiles.max(axis=1)
    faces = colors[best]
    # The largest of K probabilities is between 1/K and 1.
    chance = 1 / len(classes)
    faces[:, 3] = 0.35 + 0.5 * (confidence - chance) / (1 - chance)
    aspect = thumbnail.shape[1] / thumbnail.shape[0]
    height = min(6.0, 7.0 / aspect)
    figure = Figure(
        figsize=(2 * height * aspect + 0.5, height + 1.2), layout="constrained"
    )
    plain, graded = figure.subplots(1, 2)
    plain.imshow(thumbnail)
    # In gray, so that the stain does not change the colors of the grades.
    graded.imshow(thumbnail.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    for axes in (plain, graded):
        hide_axis(axes)
    squares = [Rectangle((x, y), side, side) for x, y in corners]
    graded.add_collection(PatchCollection(squares, facecolors=faces, linewidths=0))
    counts = np.bincount(best, minlength=len(classes))
    graded.set_title("predicted grade of each tile (paler: less certain)", fontsize=9)
    plain.set_title(f"slide, {len(tiles)} tissue tiles", fontsize=9)
    figure.legend(
        handles=[
            Patch(facecolor=color, label=f"{name}: {count} tiles")
            for name, color, count in zip(classes, colors, counts, strict=True)
        ],
        loc="outside lower center",
        ncols=len(classes),
        frameon=False,
    )
    save(figure, path, title)


def hide_axis(axes: Axes) -> None:
    """Draws no frame and no ticks; without any, none are made and measured."""
    axes.set_axis_off()
    axes.set(xticks=(), yticks=())


def save(figure: Figure, path: Path, title: str) -> None:
    """Writes a figure as PNG, with a title, and removes its axes."""
    width = int(figure.get_figwidth() * 12)  # in characters
    lines = [textwrap.wrap(line, width) for line in title.splitlines()]
    # parse_math: names of files and classes may contain $.
    figure.suptitle("\n".join(sum(lines, [])), fontsize=11)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters missing from the font are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=_DPI)
    for axes in figure.axes:  # faster than `clear`, which makes them anew
        axes.remove()
    gc.collect()  # figures have reference cycles, and a batch has many
    files.write_bytes(path, buffer.getvalue())
