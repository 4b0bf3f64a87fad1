"""Draws the validation rows of a fold from its training rows, by patient."""

import dataclasses

import numpy as np
from jaxtyping import Int

from fof_jax.data.metadata import Metadata
from fof_jax.data.splits import SplitError, Splits


def draw(
    metadata: Metadata,
    train_rows: Int[np.ndarray, " n"],
    *,
    fraction: float,
    seed: int,
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " v"]]:
    """Divides training rows into those that remain and those of validation.

    The patients are drawn, stratified by grade; the grade of a patient is the highest
    of its regions. At least one patient of each grade is drawn. A patient who is the
    only one of a grade stays in training.

    Args:
      metadata: of the store.
      train_rows: sorted positions of the training regions of a fold.
      fraction: of the patients that are drawn, above 0 and below 1.
      seed: of the draw.

    Returns:
      (remaining, validation), both sorted, together `train_rows`.

    Raises:
      SplitError: the patients are too few.
    """
    from sklearn.model_selection import train_test_split

    owner = np.asarray(metadata.patients)[train_rows]
    patients, index = np.unique(owner, return_inverse=True)
    grade = np.zeros(len(patients), int)
    np.maximum.at(grade, index, np.asarray(metadata.grades)[train_rows])
    repeated = np.bincount(grade) >= 2
    drawable, strata = patients[repeated[grade]], int(repeated.sum())
    count = max(strata, round(fraction * len(patients)))
    if not strata or len(drawable) - count < strata:
        raise SplitError(
            f"validation={fraction:g} would draw {count} of the {len(drawable)} "
            "training patients of a fold whose grade another patient has, too; "
            f"expected that one of each of the {strata} grades remains. Set "
            "--config.validation lower, or 0."
        )
    _, chosen_patients = train_test_split(
        drawable,
        test_size=count,
        stratify=grade[repeated[grade]],
        random_state=seed,
    )
    inside = np.isin(owner, chosen_patients)
    return train_rows[~inside], train_rows[inside]


def with_validation(
    splits: Splits, metadata: Metadata, *, fraction: float, seed: int
) -> Splits:
    """Splits whose training rows are divided by `draw`; the test rows stay.

    Args:
      splits: without validation rows; with them they are returned as they are.
      metadata: the table.
      fraction: 0 for no validation.
      seed: of the draw, the same in every fold.

    Raises:
      SplitError: as `draw`; or there are validation rows, and `fraction` is 0.
    """
    if splits.validation and not fraction:
        raise SplitError(
            "splits.json has validation rows, and validation is 0. Set "
            "--config.validation to their fraction, or use splits without them."
        )
    if splits.validation or not fraction:
        return splits
    parts = [
        draw(metadata, train, fraction=fraction, seed=seed) for train, _ in splits.folds
    ]
    folds = tuple(
        (rest, test) for (rest, _), (_, test) in zip(parts, splits.folds, strict=True)
    )
    validation = tuple(rows for _, rows in parts)
    return dataclasses.replace(splits, folds=folds, validation=validation)
