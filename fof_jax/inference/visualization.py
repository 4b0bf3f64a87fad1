"""Pictures of the focus: A over an image, and the patches that M keeps or hides."""

import gc
import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fof_jax import files

COLOURS = "viridis"  # perceptually uniform: equal steps of A look equal
HIDDEN = 128  # grey level of the patches that M hides
_DPI = 150
_LARGEST = 1024  # pixels of an image's longer side in a picture


def overlay(
    pixels: UInt8[np.ndarray, "H W 3"], A: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A in colours over the region in grey."""
    heat = matplotlib.colormaps[COLOURS](A)[..., :3] * 255
    grey = pixels.mean(axis=2, keepdims=True)
    return np.round(0.6 * heat + 0.4 * grey).astype(np.uint8)


def masked(
    pixels: UInt8[np.ndarray, "H W 3"], keep: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The patches (or pixels) that a mask keeps; the others grey.

    A border that is narrower than a patch belongs to none and is grey.
    """
    patch = pixels.shape[0] // keep.shape[0]
    full = np.zeros(pixels.shape[:2], bool)
    inside = np.kron(keep, np.ones((patch, patch), bool))
    full[: inside.shape[0], : inside.shape[1]] = inside
    return np.where(full[..., None], pixels, np.uint8(HIDDEN))


def focus_picture(
    path: Path,
    *,
    pixels: UInt8[np.ndarray, "H W 3"],
    A: Float[np.ndarray, "H W"],
    keep: Bool[np.ndarray, "h w"],
    title: str,
) -> None:
    """Writes a PNG: the image, A over it with its scale, patches kept and hidden.

    Args:
      path: of the file; it appears whole or not at all.
      pixels: the image as the model saw it.
      A: Eq. (1), 0-1.
      keep: M of Eq. (2).
      title: above all of it.
    """
    share = keep.mean()
    kept = "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"
    step = -(-max(pixels.shape[:2]) // _LARGEST)  # large maps are thinned out
    panels = (
        ("image", pixels),
        ("A, Eq. (1)", overlay(pixels, A)),
        (f"patches kept by M ({kept})", masked(pixels, keep)),
        ("patches hidden", masked(pixels, ~keep)),
    )
    tall = pixels.shape[0] / pixels.shape[1]
    # Wide enough for the words above a strip, tall enough for the scale beside it.
    width = 3.2 if tall <= 1.5 else max(4.8 / tall, 2.2)
    height = min(max(width * tall, 1.8), 4.8)
    figure = Figure(figsize=(4 * width + 1.2, height + 1), layout="constrained")
    row = figure.subplots(1, len(panels))
    for axes, (what, picture) in zip(row, panels, strict=True):
        axes.imshow(picture[::step, ::step], interpolation="nearest")
        axes.set_title(what, fontsize=9)
        axes.set_axis_off()
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    figure.colorbar(scale, ax=row[-1], label="A (0 none, 1 most)", fraction=0.05)
    _save(figure, path, title)


def slide_picture(
    path: Path,
    *,
    thumbnail: UInt8[np.ndarray, "h w 3"],
    tiles: Float[np.ndarray, "n K"],
    corners: Float[np.ndarray, "n 2"],
    side: float,
    classes: Sequence[str],
    title: str,
) -> None:
    """Writes a PNG: a slide, and beside it the grade of each tile over it.

    Args:
      path: of the file; it appears whole or not at all.
      thumbnail: the slide.
      tiles: probabilities of each tile; the paler, the less sure.
      corners: left and top of each, thumbnail pixels.
      side: of a tile, thumbnail pixels.
      classes: names of the K classes, in order.
      title: above all of it.
    """
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, len(classes)))
    best = tiles.argmax(axis=1)
    sure = tiles.max(axis=1)
    faces = colours[best]
    # From 1/K, a guess, to 1.
    faces[:, 3] = 0.35 + 0.5 * (sure - 1 / len(classes)) / (1 - 1 / len(classes))
    wide = thumbnail.shape[1] / thumbnail.shape[0]
    height = min(6.0, 7.0 / wide)
    figure = Figure(
        figsize=(2 * height * wide + 0.5, height + 1.2), layout="constrained"
    )
    plain, graded = figure.subplots(1, 2)
    plain.imshow(thumbnail)
    # In grey, so that a stain does not tint what the colours say.
    graded.imshow(thumbnail.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    for axes in (plain, graded):
        axes.set_axis_off()
    squares = [Rectangle((x, y), side, side) for x, y in corners]
    graded.add_collection(PatchCollection(squares, facecolors=faces, linewidths=0))
    counts = np.bincount(best, minlength=len(classes))
    graded.set_title("grade of each tile (paler: less sure)", fontsize=9)
    plain.set_title(f"slide, {len(tiles)} tiles of tissue", fontsize=9)
    figure.legend(
        handles=[
            Patch(facecolor=colour, label=f"{name}: {count} tiles")
            for name, colour, count in zip(classes, colours, counts, strict=True)
        ],
        loc="outside lower center",
        ncols=len(classes),
        frameon=False,
    )
    _save(figure, path, title)


def _save(figure: Figure, path: Path, title: str) -> None:
    wide = int(figure.get_figwidth() * 12)  # characters that fit at this size
    lines = [textwrap.wrap(line, wide) for line in title.splitlines()]
    # File names are no formulas, whatever they hold.
    figure.suptitle("\n".join(sum(lines, [])), fontsize=11, parse_math=False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font does not have are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=_DPI)
    figure.clear()  # its parts refer to each other, and would wait for the collector
    gc.collect()
    files.write_bytes(path, buffer.getvalue())
