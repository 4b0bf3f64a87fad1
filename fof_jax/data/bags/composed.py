"""Bags of tiles of which a few decide the grade: a test cohort for bags.

The tiles are those of a cohort of images with masks, as `features` writes them. A bag
of grade g has a share of tiles of grade g, at least half of which the mask covers; its
other tiles are of the lowest grade. In a bag of the lowest grade the share is of
covered tiles, too, and decides nothing. All tiles of a bag are of its fold, and no
patient is in two folds.

Nothing but the tiles tells the grade: bags are made in rounds of one per grade that
have the same number of tiles and of deciding tiles, and tiles are placed and ordered at
random.
"""

import collections
import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fof_jax import files
from fof_jax.data import mosaic
from fof_jax.data.bags import reading, writing
from fof_jax.data.bags.index import Entry
from fof_jax.data.bags.tiles import Tile, read_tiles
from fof_jax.data.cohort import Cohort, Progress, Row, write_cohort

TILES_FILE = "tiles.csv"


@dataclasses.dataclass(frozen=True)
class Composition:
    """Number and size of the bags.

    Attributes:
      share: of the tiles of a bag that decide its grade; at least one does.
      fewest, most: tiles of a bag; uniform between them.
      per_fold: bags per fold; the grades take turns.
    """

    share: float = 0.03
    fewest: int = 16
    most: int = 256
    per_fold: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"--share: got {self.share}, expected above 0, up to 1.")
        if not 2 <= self.fewest <= self.most:
            raise ValueError(
                f"--fewest, --most: got {self.fewest} and {self.most}, expected at "
                "least 2, and the larger one second."
            )
        if self.per_fold < 1:
            raise ValueError(f"--per_fold: got {self.per_fold}, expected at least 1.")

    def deciding(self, count: int) -> int:
        """Deciding tiles of a bag of `count`: the share, rounded, at least 1."""
        return max(1, round(self.share * count))


@dataclasses.dataclass(frozen=True)
class ComposedBag:
    """One bag before it is written.

    Attributes:
      fold, grade: of the bag.
      tiles: in the order of the file.
      chosen: True for the share of covered tiles; they decide unless `grade` is 0.
      cells: place of each tile, row-major over a square grid.
    """

    fold: int
    grade: int
    tiles: tuple[Tile, ...]
    chosen: tuple[bool, ...]
    cells: tuple[int, ...]


def plan(
    tiles: list[Tile],
    fold_of: dict[str, int],
    classes: tuple[str, ...],
    composition: Composition,
    *,
    seed: int,
) -> list[ComposedBag]:
    """Draws the tiles of all bags.

    Args:
      tiles: of all images; grade 0 is the lowest.
      fold_of: fold of each patient.
      classes: names of the grades.
      composition: number and sizes.
      seed: equal seeds give equal bags.

    Returns:
      `per_fold` bags for each fold, in order.

    Raises:
      ValueError: a fold without enough tiles of a grade.
    """
    rng = np.random.default_rng(seed)
    covered: dict[tuple[int, int], list[Tile]] = collections.defaultdict(list)
    filling: dict[int, list[Tile]] = collections.defaultdict(list)
    for tile in tiles:
        fold = fold_of[tile.patient]
        if tile.covered:
            covered[fold, tile.grade].append(tile)
        if tile.grade == 0:
            filling[fold].append(tile)
    folds = max(fold_of.values()) + 1
    needed = composition.deciding(composition.most)
    for fold in range(folds):
        available = {label: len(covered[fold, g]) for g, label in enumerate(classes)}
        short = [f"{n} covered tiles of grade {k}" for k, n in available.items()
                 if n < needed]  # fmt: skip
        if len(filling[fold]) < composition.most:
            short.append(f"{len(filling[fold])} tiles of grade {classes[0]}")
        if short:
            raise ValueError(
                f"Fold {fold} of {folds} has {', '.join(short)}; a bag of "
                f"{composition.most} needs {needed} and {composition.most}. Pass a "
                "smaller --most or --config.folds, or smaller tiles."
            )
    bags = []
    for fold in range(folds):
        count = 0
        for number in range(composition.per_fold):
            grade = number % len(classes)
            if grade == 0:  # a round of one bag per grade
                count = int(rng.integers(composition.fewest, composition.most + 1))
            chosen = _of_few_patients(
                covered[fold, grade], composition.deciding(count), rng
            )
            taken = set(chosen)
            rest = [tile for tile in filling[fold] if tile not in taken]
            picked = rng.choice(len(rest), count - len(chosen), replace=False)
            drawn = chosen + [rest[k] for k in picked]
            order = rng.permutation(count)
            bags.append(
                ComposedBag(
                    fold=fold,
                    grade=grade,
                    tiles=tuple(drawn[k] for k in order),
                    chosen=tuple(bool(k < len(chosen)) for k in order),
                    cells=tuple(rng.permutation(count).tolist()),
                )
            )
    return bags


def _of_few_patients(
    pool: list[Tile], count: int, rng: np.random.Generator
) -> list[Tile]:
    """Tiles of one patient, and of further ones only where that has too few."""
    by_patient: dict[str, list[Tile]] = collections.defaultdict(list)
    for tile in pool:
        by_patient[tile.patient].append(tile)
    # A patient is as likely as it has tiles.
    weights = np.array([len(tiles) for tiles in by_patient.values()], float)
    order = rng.choice(
        len(by_patient), len(by_patient), replace=False, p=weights / weights.sum()
    )
    patients = list(by_patient.values())
    chosen: list[Tile] = []
    for k in order:
        drawn = [patients[k][j] for j in rng.permutation(len(patients[k]))]
        chosen += drawn[: count - len(chosen)]
        if len(chosen) == count:
            break
    return chosen


def write_bags(
    cohort: Cohort,
    features: Path,
    folder: Path,
    *,
    composition: Composition,
    folds: int,
    seed: int,
    threads: int = 2,
    progress: Progress | None = None,
) -> tuple[Cohort, Float[np.ndarray, " n"]]:
    """Writes bags/, tiles.csv (the source of every tile) and table.csv.

    table.csv is written last; a folder without it is incomplete. Each bag is a patient
    of its own; the column `fold` separates the patients of the tiles. Biomarkers are
    those on which the patients of the chosen tiles agree, others are unknown.

    Args:
      cohort: of at least two grades, the lowest first.
      features: see `read_tiles`.
      folder: new or empty.
      composition: number and sizes.
      folds: number of folds; ignored where every row of the cohort has one.
      seed: equal seeds give equal bags.
      threads: number of files read in parallel.
      progress: called with (done, total) after each bag.

    Returns:
      The cohort of bags, and the share of deciding tiles in each bag.

    Raises:
      ValueError: as `plan` and `read_tiles`; or the folder has files.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out: {folder} is not empty. Pass a new or empty folder.")
    if len(cohort.classes) < 2:
        raise ValueError(
            f"data.classes: got {cohort.classes}, expected at least two grades."
        )
    tiles, entries = read_tiles(cohort, features, threads=threads)
    fold_of = mosaic.folds_of_patients(cohort, folds, np.random.default_rng(seed))
    bags = plan(tiles, fold_of, cohort.classes, composition, seed=seed)
    values = [reading.read(entry.path, entry.header).features for entry in entries]
    rows, sources, shares = [], [], []
    for number, bag in enumerate(bags):
        stem = f"fold_{bag.fold}_{number % composition.per_fold:04d}"
        path = folder / f"bags/{stem}.h5"
        writing.write(path, _patches(bag, values, entries, stem))
        rows.append(_row_of(bag, cohort, path, stem))
        deciding = np.array(bag.chosen) & (bag.grade > 0)
        shares.append(float(deciding.mean()))
        for at, (tile, decides) in enumerate(zip(bag.tiles, deciding, strict=True)):
            name = cohort.name_of(cohort.rows[tile.row])
            cells = [f"bags/{stem}.h5", at, name, tile.at, tile.patient, int(decides)]
            sources.append(cells)
        if progress is not None:
            progress(number + 1, len(bags))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["bag", "patch", "image", "tile", "patient", "deciding"])
    table.writerows(sources)
    files.write_text(folder / TILES_FILE, text.getvalue())
    composed = Cohort(tuple(rows), cohort.classes, cohort.biomarkers, root=folder)
    write_cohort(folder / "table.csv", composed)
    return composed, np.array(shares)


def _patches(
    bag: ComposedBag, values: list[np.ndarray], entries: list[Entry], name: str
) -> writing.Patches:
    side = round(entries[0].header.patch_size)
    columns = int(np.ceil(np.sqrt(len(bag.tiles))))
    cells = np.array(bag.cells)
    return writing.Patches(
        features=np.stack([values[tile.row][tile.at] for tile in bag.tiles]),
        corners=np.stack([cells % columns, cells // columns], axis=1) * side,
        patch_size=side,
        pixels=side,
        encoder="",
        name=name,
        size=(columns * side, columns * side),
        mask=np.array(bag.chosen) & (bag.grade > 0),
    )


def _row_of(bag: ComposedBag, cohort: Cohort, path: Path, stem: str) -> Row:
    chosen = [t for t, of_share in zip(bag.tiles, bag.chosen, strict=True) if of_share]
    sets = [cohort.rows[tile.row].biomarkers for tile in chosen]
    agreed = [{s[n] for s in sets} for n in range(len(cohort.biomarkers))]
    return Row(
        image=path,
        patient=stem,
        grade=bag.grade,
        biomarkers=tuple(v.pop() if len(v) == 1 else None for v in agreed),
        fold=bag.fold,
    )
