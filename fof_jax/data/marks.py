"""Marks that a cohort's pictures should not have: a planted cause for a class.

A model that is trained where one class carries a mark learns the mark. Its map has to
lie there; one that does not cannot show what a model uses.
"""

import csv
import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from fof_jax import files
from fof_jax.data import images
from fof_jax.data.cohort import Cohort
from fof_jax.data.csv_reader import TableReader

Pixels = UInt8[np.ndarray, "H W 3"]
INK = (24, 60, 140)  # blue felt pen
_DOT = 0.07  # radius, of the shorter side
_STAMP = 0.18  # side
_LINE = 0.02  # half width


def _dot(shape: tuple[int, int], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """A pen dot anywhere inside the picture."""
    height, width = shape
    radius = max(1.0, _DOT * min(shape))
    y, x = (rng.uniform(radius, n - radius) for n in shape)
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(rows - y, columns - x) <= radius


def _corner(shape: tuple[int, int], rng: np.random.Generator):
    """A square in the corner at the top left."""
    side = max(2, round(_STAMP * min(shape)))
    mask = np.zeros(shape, bool)
    mask[:side, :side] = True
    return mask


def _line(shape: tuple[int, int], rng: np.random.Generator):
    """A vertical line from border to border, as a dirty scanner draws."""
    half = max(1, round(_LINE * min(shape)))
    at = int(rng.integers(half, shape[1] - half))
    mask = np.zeros(shape, bool)
    mask[:, at - half : at + half] = True
    return mask


def _ink(pixels: Pixels, mask: Bool[np.ndarray, "H W"]) -> Pixels:
    return np.where(mask[..., None], np.array(INK, np.uint8), pixels)


def _checkered(pixels: Pixels, mask: Bool[np.ndarray, "H W"]) -> Pixels:
    """Black and white squares, like the print of a stamp."""
    height, width = mask.shape
    rows, columns = np.mgrid[:height, :width] // max(1, round(0.03 * min(mask.shape)))
    print_ = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[..., None]
    return np.where(mask[..., None], print_, pixels)


def _tinted(pixels: Pixels, mask: Bool[np.ndarray, "H W"]) -> Pixels:
    """Yellowed: less blue; brightness and texture stay."""
    scaled = np.round(pixels * np.array([1.0, 1.0, 0.55])).astype(np.uint8)
    return np.where(mask[..., None], scaled, pixels)


# Kind -> (where, what is drawn there).
_KINDS: dict[str, tuple[Callable, Callable]] = {
    "dot": (_dot, _ink),
    "stamp": (_corner, _checkered),
    "tint": (_corner, _tinted),
    "line": (_line, _ink),
}
KINDS = tuple(_KINDS)


def add_mark(pixels: Pixels, kind: str, name: str) -> tuple[Pixels, np.ndarray]:
    """Draws a mark on a picture.

    Args:
      pixels: RGB.
      kind: one of `KINDS`: a blue pen dot anywhere; a checkered stamp, or a yellow
        tint, of a corner; a blue vertical line anywhere.
      name: of the picture, which decides the place of a mark that has none.

    Returns:
      The marked picture, and the mask of the mark.

    Raises:
      ValueError: there is no such kind.
    """
    require(kind, 1.0)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    where, draw = _KINDS[kind]
    mask = where(pixels.shape[:2], np.random.default_rng(seed))
    return draw(pixels, mask), mask


def require(kind: str, fraction: float) -> None:
    """Raises ValueError if there is no such kind, or a fraction outside (0, 1]."""
    if kind not in KINDS:
        raise ValueError(f"mark: got {kind!r}, expected one of {', '.join(KINDS)}.")
    if not 0 < fraction <= 1:
        raise ValueError(
            f"mark_fraction: got {fraction}, expected more than 0, at most 1."
        )


def plant(
    table: Path,
    cohort: Cohort,
    folder: Path,
    *,
    kind: str,
    grade: int,
    fraction: float,
    seed: int = 0,
) -> int:
    """Writes a copy of a cohort in which images of one grade carry a mark.

    Names of images and all columns stay, so that folds of both cohorts can be compared;
    the column `mask` shows the mark where there is one.

    Args:
      table: the cohort's CSV.
      cohort: of `read_cohort` on it, relative to the table's folder.
      folder: for table.csv, images and masks; may not exist.
      kind: one of `KINDS`.
      grade: class index whose images are marked.
      fraction: of that grade's images, drawn at random.
      seed: of the draw.

    Returns:
      The number of marked images.

    Raises:
      ValueError: the folder exists; a fraction outside (0, 1]; no such kind; an image
        that does not lie below the table.
    """
    require(kind, fraction)
    if folder.exists():
        raise ValueError(f"{folder} exists already. Pass another --out.")
    names = [cohort.name_of(row) for row in cohort.rows]
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                f"mark: {name} does not lie below the table. Move the table, or list "
                "images below it."
            )
    of_class = [i for i, row in enumerate(cohort.rows) if row.grade == grade]
    count = round(fraction * len(of_class))
    chosen = set(np.random.default_rng(seed).permutation(of_class)[:count].tolist())
    staging = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    masks = {}
    for i, (name, row) in enumerate(zip(names, cohort.rows, strict=True)):
        place = staging / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if i not in chosen:
            shutil.copyfile(row.image, place)
            continue
        pixels = images.decode(images.encode_region(row.image))
        marked, mask = add_mark(pixels, kind, name)
        masks[i] = f"marks/{i:06d}.png"
        (staging / "marks").mkdir(exist_ok=True)
        # Lossless, also under a name that ends in .jpg: readers go by content.
        Image.fromarray(marked).save(place, "PNG")
        Image.fromarray(mask.astype(np.uint8) * 255).save(staging / masks[i], "PNG")
    _write_table(table, staging / "table.csv", masks)
    staging.rename(folder)
    return count


def _write_table(source: Path, path: Path, masks: dict[int, str]) -> None:
    """The source's table with the column `mask` replaced."""
    reader = TableReader(source)
    reader.load()
    header = [name for name in reader.header if name != "mask"]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*header, "mask"])
    for i, (_, cells) in enumerate(reader.lines):
        writer.writerow([*(cells[name] for name in header), masks.get(i, "")])
    files.write_text(path, stream.getvalue())
