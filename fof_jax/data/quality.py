"""Data-quality warnings for a cohort."""

import warnings

import numpy as np

from fof_jax.data.errors import DataWarning, shortened
from fof_jax.data.metadata import Metadata

_MIN_KNOWN = 0.1  # warns about biomarkers known for a smaller fraction of the images


def warn_about_quality(
    metadata: Metadata, *, folds: int, duplicates: list[tuple[int, int]]
) -> None:
    """Warns about suspicious but valid data, one warning per kind.

    Args:
      metadata: of a cohort that passed validation.
      folds: number of folds that the cohort will be split into.
      duplicates: pairs of near-duplicate images of different patients.

    Warns:
      DataWarning: patients with two grades; a class with fewer patients than folds;
        classes without an image; biomarkers that are known for under 10% of the
        images, or have one value only; near-duplicate images.
    """
    for text in [
        *_patients(metadata, folds),
        *_biomarkers(metadata),
        *_duplicates(metadata, duplicates),
    ]:
        warnings.warn(text, DataWarning, stacklevel=2)


def _patients(metadata: Metadata, folds: int) -> list[str]:
    grades: dict[str, set[int]] = {}
    for patient, grade in zip(metadata.patients, metadata.grades.tolist(), strict=True):
        grades.setdefault(patient, set()).add(grade)
    messages = []
    several = [
        f"{patient} ({', '.join(metadata.classes[g] for g in sorted(held))})"
        for patient, held in grades.items()
        if len(held) > 1
    ]
    if several:
        messages.append(
            f"{len(several)} patients have images of more than one grade: "
            f"{shortened(several)}. Metrics by patient leave them out."
        )
    counts = {
        label: sum(k in held for held in grades.values())
        for k, label in enumerate(metadata.classes)
    }
    if empty := [label for label, count in counts.items() if not count]:
        messages.append(f"No image has the grade {shortened(empty)}.")
    few = [f"{label}: {count}" for label, count in counts.items() if 0 < count < folds]
    if few:
        messages.append(
            f"Fewer patients than the {folds} folds in class {shortened(few)}: some "
            "folds test or train without it."
        )
    return messages


def _biomarkers(metadata: Metadata) -> list[str]:
    if not metadata.biomarkers:
        return []
    messages, fractions = [], metadata.known.mean(axis=0)
    rare = [
        f"{name} ({100 * fraction:.1f}%)"
        for name, fraction in zip(metadata.biomarkers, fractions, strict=True)
        if fraction < _MIN_KNOWN
    ]
    if rare:
        messages.append(
            f"Known for under {100 * _MIN_KNOWN:.0f}% of the images: {shortened(rare)}."
        )
    columns = zip(
        metadata.biomarkers, metadata.biomarker_values.T, metadata.known.T, strict=True
    )
    single = [name for name, v, known in columns if len(np.unique(v[known])) == 1]
    if single:
        messages.append(f"One value only wherever known: {shortened(single)}.")
    return messages


def _duplicates(metadata: Metadata, duplicates: list[tuple[int, int]]) -> list[str]:
    if not duplicates:
        return []
    pairs = [
        f"{metadata.images[i]} ({metadata.patients[i]}) and {metadata.images[j]} "
        f"({metadata.patients[j]})"
        for i, j in duplicates
    ]
    return [
        f"{len(pairs)} pairs of images of different patients look the same: "
        f"{shortened(pairs)}. A split by patient would put them on both sides."
    ]
