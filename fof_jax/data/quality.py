"""What is legal in a cohort, and odd enough to say."""

import warnings

import numpy as np

from fof_jax.data.errors import DataWarning, shortened
from fof_jax.data.metadata import Columns

_RARE = 0.1  # a biomarker known for less than this share of the images is told


def warn_of_oddities(
    columns: Columns, *, folds: int, alike: list[tuple[int, int]]
) -> None:
    """Tells what is legal but odd in a table, a line a kind, ten of each at most.

    Args:
      columns: of a cohort without faults.
      folds: that it will be divided into.
      alike: pairs of images of two patients that look the same.

    Warns:
      DataWarning: patients with two grades; a class with fewer patients than folds;
        classes without an image; biomarkers that are known for under 10% of the
        images, or have one value only; near-duplicate images.
    """
    for text in [
        *_patients(columns, folds),
        *_biomarkers(columns),
        *_alike(columns, alike),
    ]:
        warnings.warn(text, DataWarning, stacklevel=2)


def _patients(columns: Columns, folds: int) -> list[str]:
    grades: dict[str, set[int]] = {}
    for patient, grade in zip(columns.patients, columns.grades.tolist(), strict=True):
        grades.setdefault(patient, set()).add(grade)
    told = []
    several = [
        f"{patient} ({', '.join(columns.classes[g] for g in sorted(held))})"
        for patient, held in grades.items()
        if len(held) > 1
    ]
    if several:
        told.append(
            f"{len(several)} patients have images of more than one grade: "
            f"{shortened(several)}. Figures by patient leave them out."
        )
    counts = {
        label: sum(k in held for held in grades.values())
        for k, label in enumerate(columns.classes)
    }
    if empty := [label for label, count in counts.items() if not count]:
        told.append(f"No image has the grade {shortened(empty)}.")
    few = [f"{label}: {count}" for label, count in counts.items() if 0 < count < folds]
    if few:
        told.append(
            f"Fewer patients than the {folds} folds in class {shortened(few)}: some "
            "folds test or train without it."
        )
    return told


def _biomarkers(columns: Columns) -> list[str]:
    if not columns.biomarkers:
        return []
    told, shares = [], columns.known.mean(axis=0)
    rare = [
        f"{name} ({100 * share:.1f}%)"
        for name, share in zip(columns.biomarkers, shares, strict=True)
        if share < _RARE
    ]
    if rare:
        told.append(
            f"Known for under {100 * _RARE:.0f}% of the images: {shortened(rare)}."
        )
    held = zip(
        columns.biomarkers, columns.biomarker_values.T, columns.known.T, strict=True
    )
    single = [name for name, v, known in held if len(np.unique(v[known])) == 1]
    if single:
        told.append(f"One value only wherever known: {shortened(single)}.")
    return told


def _alike(columns: Columns, alike: list[tuple[int, int]]) -> list[str]:
    if not alike:
        return []
    pairs = [
        f"{columns.images[i]} ({columns.patients[i]}) and {columns.images[j]} "
        f"({columns.patients[j]})"
        for i, j in alike
    ]
    return [
        f"{len(pairs)} pairs of images of different patients look the same: "
        f"{shortened(pairs)}. A split by patient would put them on both sides."
    ]
