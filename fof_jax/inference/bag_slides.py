"""Where the patches of a bag are on its slide, and the slide's thumbnail.

No tool's features name the file of the slide with its folder: TRIDENT and CLAM record
its name without suffix (attribute `name` of `coords`), STAMP names the file of features
after it (sources: `data/bags/layouts.py`). So a slide is the file that the column
`slide` of a table names, or one of that name beside the features.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fof_jax.data import images
from fof_jax.data.bags import reading
from fof_jax.inference import slide_file
from fof_jax.inference.image_folder import DICOM, SLIDES

# A picture beside the features may be a plot of them: only its table can name it.
BESIDE = (*SLIDES, *DICOM, ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """Patches of a bag in level-0 pixels, over the slide where there is one.

    Attributes:
      corners: upper left corners (x, y).
      side: of a patch.
      unit: of both: px (level-0 pixels); um (micrometers) for files in micrometers
        whose slide, or whose slide's scale, is unknown.
      mpp: micrometers per unit; None if unknown.
      thumbnail: the slide; None without one.
      ratio: thumbnail pixels per unit.
      warning: why there is no slide, or no pixels; "" where nothing is missing.
    """

    corners: Float[np.ndarray, "N 2"]
    side: float
    unit: str
    mpp: float | None = None
    thumbnail: UInt8[np.ndarray, "h w 3"] | None = None
    ratio: float = 1.0
    warning: str = ""


def find(path: Path, stated: Path | None = None) -> Path | None:
    """The slide of a file of features.

    Args:
      path: of the features.
      stated: the slide that a table names for it.

    Returns:
      `stated`; else a slide in the folder of `path` whose name, without suffix, is the
      one that the file records, or else its own; None where there is none.
    """
    if stated is not None:
        return stated
    recorded = Path(reading.slide_name(path) or path.stem).name
    stem = Path(recorded).stem if recorded.lower().endswith(BESIDE) else recorded
    beside = (
        one
        for one in path.parent.iterdir()
        if one.suffix.lower() in BESIDE and one.stem in (stem, path.stem)
    )
    return min(beside, key=lambda one: (one.stem != stem, one), default=None)


def place(
    path: Path,
    coords: Float[np.ndarray, "N 2"],
    side: float,
    unit: str,
    *,
    slide: Path | None = None,
    slide_mpp: float | None = None,
) -> Placed:
    """Places the patches of a file on its slide; without one, as the file has them.

    Args:
      path: of the features.
      coords: upper left corners (x, y).
      side: of a patch.
      unit: of both, px or um.
      slide: that a table names; None to look beside the file.
      slide_mpp: micrometers per level-0 pixel, for slides that state none.
    """
    own_mpp = 1.0 if unit == "um" else slide_mpp
    plain = Placed(coords, side, unit, own_mpp)
    slide_path = find(path, slide)
    if slide_path is None:
        return _without(plain, "")
    try:
        thumbnail, size, mpp = _read(slide_path, slide_mpp)
    except (ValueError, OSError) as error:
        return _without(plain, f"slide {slide_path.name}: {error}")
    if unit == "um" and mpp is None:
        return _without(plain, f"slide {slide_path.name} states no scale")
    scale = 1.0 if unit == "px" or mpp is None else 1 / mpp
    corners = coords * scale
    if (corners.min(axis=0) < 0).any() or (corners.max(axis=0) >= size).any():
        far = " x ".join(f"{value:.0f}" for value in corners.max(axis=0))
        text = (
            f"slide {slide_path.name} has {size[0]} x {size[1]} pixels, and patches "
            f"begin at up to {far}: is it another slide?"
        )
        return _without(plain, text)
    ratio = thumbnail.shape[1] / size[0]
    return Placed(corners, side * scale, "px", mpp, thumbnail, ratio)


def _without(plain: Placed, reason: str) -> Placed:
    """Patches without a slide, and what follows from that."""
    shown = [f"{reason}; the map is shown without it"] if reason else []
    if plain.unit == "um":
        shown.append(
            "tiles are in micrometers, because no slide gives the scale of a pixel"
        )
    return dataclasses.replace(plain, warning="; ".join(shown))


def _read(
    path: Path, given: float | None
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int], float | None]:
    """Thumbnail, width and height in level-0 pixels, and scale if it is known."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if not slide_file.is_slide(path, slide_file.THUMBNAIL):
        image = Image.fromarray(images.decode(images.encode_region(path)))
        size = image.size
        image.thumbnail((slide_file.THUMBNAIL, slide_file.THUMBNAIL))
        return np.array(image), size, given
    with slide_file.readable(path), slide_file.open_slide(path) as slide:
        try:
            mpp: float | None = slide_file.level_0_mpp(slide.properties, path, given)[0]
        except ValueError:  # states none
            mpp = None
        return slide_file.thumbnail(slide), slide.dimensions, mpp
