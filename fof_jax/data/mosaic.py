"""Mosaics of tiles in which one or two tiles decide the grade.

On a cohort whose structures fill half of an image any map lies on them. A mosaic of
such images leaves a known small part to find: one or two tiles of its grade among tiles
of the lowest grade, which say nothing of it. A tile is a whole image of the cohort,
made smaller. Every tile of a mosaic is of the mosaic's fold, and the deciding tiles are
of one patient, so that folds are by patient.
"""

import collections
import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from fof_jax import files
from fof_jax.data import images, squares
from fof_jax.data.cohort import Cohort, Progress, Row, write_cohort
from fof_jax.data.errors import shortened

MOST_DECIDING = 2
TILES_FILE = "tiles.csv"
_QUALITY = 95  # of the JPEG files, without chroma subsampling


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape and number of the mosaics.

    Attributes:
      grid: tiles per side.
      tile: side of a tile, in pixels.
      per_fold: mosaics per fold; the grades take turns.
    """

    grid: int = 3
    tile: int = 112
    per_fold: int = 150

    def __post_init__(self) -> None:
        smallest = {"grid": 2, "tile": 8, "per_fold": 1}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"--{name}: got {getattr(self, name)}, expected at least {least}."
                )


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """One mosaic before it is drawn.

    Attributes:
      fold, grade: of the mosaic.
      deciding: number of deciding tiles; 0 for the lowest grade.
      tiles: rows of the cohort, the deciding ones first.
      places: cell of each tile, row-major over the grid.
      turns: quarter turns of each tile.
      mirrored: whether each tile is mirrored after the turns.
    """

    fold: int
    grade: int
    deciding: int
    tiles: tuple[int, ...]
    places: tuple[int, ...]
    turns: tuple[int, ...]
    mirrored: tuple[bool, ...]


def plan(cohort: Cohort, *, layout: Layout, folds: int, seed: int) -> list[Mosaic]:
    """Draws the tiles of all mosaics, without reading an image.

    Args:
      cohort: images with masks; the first class is the lowest grade.
      layout: shape and number.
      folds: number of folds; ignored where every row of the cohort has one.
      seed: equal seeds give equal mosaics.

    Returns:
      `per_fold` mosaics for each fold, in order.

    Raises:
      ValueError: fewer than two classes; a fold of the cohort that divides a patient;
        or a fold without enough tiles of a grade.
    """
    if len(cohort.classes) < 2:
        raise ValueError(
            f"data.classes: got {cohort.classes}, expected at least two grades."
        )
    rng = np.random.default_rng(seed)
    fold_of = folds_of_patients(cohort, folds, rng)
    pools: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for i, row in enumerate(cohort.rows):
        if row.grade == 0 or row.mask is not None:
            pools[fold_of[row.patient], row.grade].append(i)
    count = max(fold_of.values()) + 1
    _check_pools(cohort, pools, layout, count)
    return [
        _draw(cohort, pools, layout, fold, number % len(cohort.classes), rng)
        for fold in range(count)
        for number in range(layout.per_fold)
    ]


def folds_of_patients(
    cohort: Cohort, folds: int, rng: np.random.Generator
) -> dict[str, int]:
    """The cohort's own folds, or patients dealt out by their highest grade."""
    if all(row.fold is not None for row in cohort.rows):
        folds_by_patient: dict[str, set[int]] = collections.defaultdict(set)
        for row in cohort.rows:
            folds_by_patient[row.patient].add(int(row.fold or 0))
        torn = [
            patient for patient, numbers in folds_by_patient.items() if len(numbers) > 1
        ]
        if torn:
            raise ValueError(
                f"The column 'fold' puts images of one patient into several folds: "
                f"{shortened(torn)}. Expected folds by patient; remove the column, and "
                "the patients are dealt out."
            )
        return {patient: min(numbers) for patient, numbers in folds_by_patient.items()}
    highest: dict[str, int] = {}
    for row in cohort.rows:
        highest[row.patient] = max(highest.get(row.patient, 0), row.grade)
    fold_of = {}
    for grade in range(len(cohort.classes)):
        patients = sorted(p for p, g in highest.items() if g == grade)
        for place, at in enumerate(rng.permutation(len(patients))):
            fold_of[patients[at]] = place % folds
    return fold_of


def _check_pools(cohort: Cohort, pools, layout: Layout, folds: int) -> None:
    for fold in range(folds):
        for grade, label in enumerate(cohort.classes):
            available = len(pools[fold, grade])
            least = 1 if grade else layout.grid**2
            if available < least:
                kind = "with a mask" if grade else "to fill a mosaic"
                raise ValueError(
                    f"Fold {fold} of {folds} has {available} images of grade {label} "
                    f"{kind}, expected at least {least}. Set --config.folds lower, or "
                    "add images."
                )


def _draw(cohort: Cohort, pools, layout: Layout, fold: int, grade: int, rng) -> Mosaic:
    chosen: list[int] = []
    if grade:
        pool = pools[fold, grade]
        first = pool[rng.integers(len(pool))]
        patient = cohort.rows[first].patient
        others = [i for i in pool if cohort.rows[i].patient == patient and i != first]
        wanted = int(rng.integers(MOST_DECIDING))  # 0 or 1 besides the first
        chosen = [first, *rng.permutation(others)[:wanted].tolist()]
    cells = layout.grid**2
    fill = rng.choice(pools[fold, 0], cells - len(chosen), replace=False).tolist()
    return Mosaic(
        fold=fold,
        grade=grade,
        deciding=len(chosen),
        tiles=tuple(int(i) for i in chosen + fill),
        places=tuple(rng.permutation(cells).tolist()),
        turns=tuple(rng.integers(4, size=cells).tolist()),
        mirrored=tuple((rng.integers(2, size=cells) == 1).tolist()),
    )


def render(
    mosaic: Mosaic, cohort: Cohort, layout: Layout
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]:
    """Pixels of a mosaic, and the mask of the structures in its deciding tiles."""
    side = layout.grid * layout.tile
    picture = np.zeros((side, side, 3), np.uint8)
    mask = np.zeros((side, side), bool)
    for rank, i in enumerate(mosaic.tiles):
        row, column = divmod(mosaic.places[rank], layout.grid)
        cell = np.s_[
            row * layout.tile : (row + 1) * layout.tile,
            column * layout.tile : (column + 1) * layout.tile,
        ]
        source = cohort.rows[i]
        pixels = squares.decode_region(
            images.encode_region(source.image),
            layout.tile,
            small="resize",
            name=source.image.name,
        )
        picture[cell] = _turned(pixels, mosaic.turns[rank], mosaic.mirrored[rank])
        if rank < mosaic.deciding and source.mask is not None:
            inside = squares.decode_mask(
                images.encode_mask(source.mask),
                layout.tile,
                small="resize",
                name=source.mask.name,
            )
            mask[cell] = _turned(inside, mosaic.turns[rank], mosaic.mirrored[rank])
    return picture, mask


def _turned(pixels: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    pixels = np.rot90(pixels, turns)
    return pixels[:, ::-1] if mirrored else pixels


def row_of(mosaic: Mosaic, cohort: Cohort, image: Path, mask: Path) -> Row:
    """The mosaic as a row of a table.

    Patient and biomarkers are those of the deciding tiles; a biomarker on which they
    differ is unknown. Nothing decides the lowest grade: its biomarkers are unknown, and
    its patient is that of the first tile.
    """
    first = cohort.rows[mosaic.tiles[0]]
    sets = [cohort.rows[i].biomarkers for i in mosaic.tiles[: mosaic.deciding]]
    values = [
        {s[n] for s in sets} if sets else {None} for n in range(len(cohort.biomarkers))
    ]
    return Row(
        image=image,
        patient=first.patient,
        grade=mosaic.grade,
        biomarkers=tuple(v.pop() if len(v) == 1 else None for v in values),
        fold=mosaic.fold,
        mask=mask,
    )


def write_mosaics(
    cohort: Cohort,
    folder: Path,
    *,
    layout: Layout,
    folds: int,
    seed: int,
    progress: Progress | None = None,
) -> Cohort:
    """Writes images/, masks/, tiles.csv (the source of every tile) and table.csv.

    table.csv is written last; a folder without it is incomplete.

    Args:
      cohort: see `plan`.
      folder: new or empty.
      layout, folds, seed: see `plan`.
      progress: called with (done, total) after each mosaic.

    Returns:
      The cohort of mosaics, with folds.

    Raises:
      ValueError: as `plan`; or the folder has files.
      ImageError: an image that cannot be read.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out: {folder} is not empty. Pass a new or empty folder.")
    mosaics = plan(cohort, layout=layout, folds=folds, seed=seed)
    rows, sources = [], []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, mosaic in enumerate(mosaics):
        stem = f"fold_{mosaic.fold}_{number % layout.per_fold:04d}"
        image, mask = folder / f"images/{stem}.jpg", folder / f"masks/{stem}.png"
        picture, inside = render(mosaic, cohort, layout)
        Image.fromarray(picture).save(image, quality=_QUALITY, subsampling=0)
        Image.fromarray(inside.astype(np.uint8) * 255).save(mask)
        rows.append(row_of(mosaic, cohort, image, mask))
        sources += _sources(mosaic, cohort, f"images/{stem}.jpg")
        if progress is not None:
            progress(number + 1, len(mosaics))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "place", "tile", "patient", "deciding"])
    table.writerows(sources)
    files.write_text(folder / TILES_FILE, text.getvalue())
    composed = Cohort(tuple(rows), cohort.classes, cohort.biomarkers, root=folder)
    write_cohort(folder / "table.csv", composed)
    return composed


def _sources(mosaic: Mosaic, cohort: Cohort, image: str) -> list[list[object]]:
    placed = zip(mosaic.tiles, mosaic.places, strict=True)
    return [
        [
            image,
            place,
            cohort.name_of(cohort.rows[i]),
            cohort.rows[i].patient,
            int(rank < mosaic.deciding),
        ]
        for rank, (i, place) in enumerate(placed)
    ]
