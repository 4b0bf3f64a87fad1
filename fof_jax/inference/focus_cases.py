"""Images with masks that the folds of a run are scored on.

A fold is scored on images that it has not been trained on: its test images, or those
of another table.
"""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from fof_jax.data import images
from fof_jax.data.cohort import Cohort, Row
from fof_jax.data.errors import DataWarning
from fof_jax.data.marks import add_mark
from fof_jax.data.store import Store
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference.load import find_upward
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.preprocess import fit_mask, preprocess_mask

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One input of the network, with the mask of its structures.

    Attributes:
      image, tile: name of the image, and number of the tile, 0 for a whole image.
      patient: of the image.
      grade: class index, whose evidence is sought.
      pixels: as the network reads them.
      mask: True on structures; somewhere.
      folds: names of the folds that have not been trained on it.
    """

    image: str
    tile: int
    patient: str
    grade: int
    pixels: UInt8[np.ndarray, "S S 3"]
    mask: Bool[np.ndarray, "S S"]
    folds: tuple[str, ...]


def of_table(
    model: TrainedModel, cohort: Cohort, *, limit: int | None = None, seed: int = 0
) -> list[Case]:
    """Cases of a cohort table: its images with a mask that is not empty.

    An image larger than the training images becomes the tiles of `predict`.

    Args:
      model: whose folds are scored.
      cohort: of `read_cohort`, with the model's classes.
      limit: largest number of images, as evenly from the grades as they have them.
      seed: of that choice.

    Raises:
      ValueError: no image has a mask; or each was in the training of every fold.
    """
    rows = [row for row in cohort.rows if row.mask is not None]
    if not rows:
        raise ValueError(
            "focus: no image of the table has a mask. Add a column 'mask' with the "
            "file of each image's mask, nonzero on the structures."
        )
    unseen = unseen_folds(model)
    open_rows = [(row, unseen(cohort.name_of(row), row.patient)) for row in rows]
    open_rows = [(row, folds) for row, folds in open_rows if folds]
    _check_any(open_rows, "every image with a mask was in the training of every fold")
    chosen = spread([row.grade for row, _ in open_rows], limit=limit, seed=seed)
    cases: list[Case] = []
    for row, folds in (open_rows[i] for i in chosen):
        cases += _of_row(model, cohort, row, folds)
    _check_any(cases, "the mask of every image is empty")
    return cases


def _of_row(
    model: TrainedModel, cohort: Cohort, row: Row, folds: tuple[str, ...]
) -> Iterator[Case]:
    prepared = model.preprocess(row.image)
    masks = preprocess_mask(Path(row.mask or ""), model.config.data, model.sides)
    for tile, (pixels, mask) in enumerate(zip(prepared.tiles, masks, strict=True)):
        if mask.any():
            name = cohort.name_of(row)
            yield Case(name, tile, row.patient, row.grade, pixels, mask, folds)


def with_mark(
    model: TrainedModel,
    cohort: Cohort,
    kind: str,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[list[Case], list[Case]]:
    """Every image of a cohort that some fold has not seen, without and with a mark.

    The mark is drawn before preprocessing, as in a cohort of `marks.plant`.

    Args:
      model, cohort, limit, seed: as in `of_table`; masks are not read.
      kind: of the mark, see `marks.add_mark`.

    Returns:
      Clean cases, whose masks are those of the mark they do not carry; and the same
      with it.

    Raises:
      ValueError: each image was in the training of every fold.
    """
    unseen = unseen_folds(model)
    rows = [(row, unseen(cohort.name_of(row), row.patient)) for row in cohort.rows]
    rows = [(row, folds) for row, folds in rows if folds]
    _check_any(rows, "every image was in the training of every fold")
    chosen = spread([row.grade for row, _ in rows], limit=limit, seed=seed)
    clean: list[Case] = []
    marked: list[Case] = []
    for row, folds in (rows[i] for i in chosen):
        name = cohort.name_of(row)
        pixels = images.decode(images.encode_region(row.image))
        painted, mask = add_mark(pixels, kind, name)
        masks = fit_mask(mask, model.config.data, model.sides)
        for cases, source in ((clean, pixels), (marked, painted)):
            tiles = model.preprocess(source).tiles
            cases += [
                Case(name, k, row.patient, row.grade, tile, inside, folds)
                for k, (tile, inside) in enumerate(zip(tiles, masks, strict=True))
            ]
    return clean, marked


def of_store(
    model: TrainedModel, data: Store, *, limit: int | None = None, seed: int = 0
) -> list[Case]:
    """Cases of the run's own data: the test images of its folds that have a mask.

    Args:
      model: whose folds are scored.
      data: the store that they were trained on.
      limit, seed: as in `of_table`.

    Raises:
      ValueError: the run has no splits.json; or no test image has a mask.
    """
    splits = _splits(model)
    if splits is None:
        raise ValueError(
            "focus: the run has no splits.json, which says what each fold was trained "
            "on. Pass another dataset as --table=TABLE.csv."
        )
    if splits["table_hash"] != data.table_hash:
        raise ValueError(
            f"focus: the store at {data.folder} was built from another table than the "
            "run's. Pass the run's own as --data_dir, or a table as --table."
        )
    unseen = unseen_folds(model)
    rows = [
        (i, folds)
        for i in np.flatnonzero(data.has_mask).tolist()
        if (folds := unseen(data.images[i], data.patients[i]))
    ]
    _check_any(rows, "no test image of the run has a mask")
    side = model.image_size
    masks = {i: mask for i, _ in rows if (mask := _mask(data, i, side)) is not None}
    rows = [(i, folds) for i, folds in rows if i in masks]
    _check_any(rows, "the mask of every test image is empty")
    chosen = spread([int(data.grades[i]) for i, _ in rows], limit=limit, seed=seed)
    return [
        Case(
            image=data.images[i],
            tile=0,
            patient=data.patients[i],
            grade=int(data.grades[i]),
            pixels=data.read(i, side),
            mask=masks[i],
            folds=folds,
        )
        for i, folds in (rows[k] for k in chosen)
    ]


def _mask(data: Store, i: int, side: int) -> Bool[np.ndarray, "S S"] | None:
    """The mask of an image; None for one that is empty."""
    mask = data.read_mask(i, side)
    return mask if mask is not None and mask.any() else None


def spread(grades: Sequence[int], *, limit: int | None, seed: int = 0) -> list[int]:
    """Positions of at most `limit` images, in turn from each grade, in table order."""
    if limit is None or limit >= len(grades):
        return list(range(len(grades)))
    if limit < 1:
        raise ValueError(f"limit: got {limit}, expected 1 or more images.")
    shuffled = np.random.default_rng(seed).permutation(len(grades))
    turn: dict[int, int] = {}
    keyed = []
    for i in shuffled.tolist():
        turn[grades[i]] = turn.get(grades[i], 0) + 1
        keyed.append((turn[grades[i]], grades[i], i))
    return sorted(i for _, _, i in sorted(keyed)[:limit])


def unseen_folds(model: TrainedModel) -> Callable[[str, str], tuple[str, ...]]:
    """A function of image and patient: the folds not trained on the image.

    An image that splits.json names belongs to the folds that do not train on it, nor
    select their model on it. Any other is new to a fold unless its patient is in the
    fold's training or validation set.

    Warns:
      DataWarning: there is no splits.json, so that every image counts as new.
    """
    splits = _splits(model)
    if splits is None:
        warnings.warn(
            "focus: the checkpoint has no splits.json, so that images of its training "
            "are scored, too. Pass the run's own folder as --checkpoint, or a table of "
            "new patients.",
            DataWarning,
            stacklevel=2,
        )
        return lambda image, patient: model.fold_names
    sides = {}
    for name in model.fold_names:
        fold = splits["folds"][fold_number(name)]
        used = set(fold["train"]["images"])
        used |= set(fold.get("validation", {}).get("images", ()))
        sides[name] = used, set(fold["test"]["images"])
    owners = _owners(model)

    def unseen(image: str, patient: str) -> tuple[str, ...]:
        named = any(image in side for both in sides.values() for side in both)
        if named:
            return tuple(n for n, (train, _) in sides.items() if image not in train)
        known = owners.get(patient, set())
        return tuple(n for n, (train, _) in sides.items() if not known & train)

    return unseen


def _owners(model: TrainedModel) -> dict[str, set[str]]:
    """Images of each patient, as the folds' predictions on their test images say."""
    owners: dict[str, set[str]] = {}
    splits = find_upward(Path(model.fold_names[0]), "splits.json")
    for path in splits.parent.glob("fold_*/predictions.csv") if splits else ():
        table = read_predictions(path)
        for patient, image in zip(table.patient, table.image, strict=True):
            owners.setdefault(patient, set()).add(image)
    return owners


def _splits(model: TrainedModel) -> dict[str, Any] | None:
    path = find_upward(Path(model.fold_names[0]), "splits.json")
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def fold_number(fold: str) -> int:
    """Number of the fold that a folder belongs to."""
    for part in reversed(Path(fold).resolve().parts):
        digits = part.removeprefix("fold_")
        if part.startswith("fold_") and digits.isdigit():
            return int(digits)
    raise ValueError(
        f"checkpoint: {fold} is below no folder fold_0, fold_1 …, so that splits.json "
        "cannot say what it was trained on. Pass the run or one of its folds."
    )


def _check_any(cases: Sequence[object], problem: str) -> None:
    if not cases:
        raise ValueError(f"focus: {problem}. Pass another table as --table.")
