"""Predictions of patients, aggregated from those of their images."""

from typing import Literal

import numpy as np

from fof_jax.evaluation.predictions import UNKNOWN, Predictions, PredictionsError
from fof_jax.tables.patients import describe, spellings

Aggregate = Literal["mean", "max"]


def by_patient(
    predictions: Predictions, *, aggregate: Aggregate = "mean"
) -> Predictions:
    """Aggregates images to patients, within each fold.

    Images with an error, images without a patient and patients with two grades are
    left out; the notes count the latter two.

    Args:
      predictions: one row per image.
      aggregate: "mean" of the probabilities over a patient's images, or their "max"
        per class, which is not renormalized (as in Pathomic Fusion), so that a row
        may sum to more than 1.

    Returns:
      One row per patient and fold, in order of appearance; `image` is empty.

    Raises:
      PredictionsError: unknown aggregate.
    """
    if aggregate not in ("mean", "max"):
        raise PredictionsError(
            f"aggregate is {aggregate!r}; expected 'mean' or 'max'. Pass one of them."
        )
    grades: dict[str, set[int]] = {}
    for name, y in zip(predictions.patient, predictions.y.tolist(), strict=True):
        grades.setdefault(name, set()).update({y} - {UNKNOWN})
    ambiguous = sorted(name for name, ys in grades.items() if name and len(ys) > 1)
    groups: dict[tuple[str, int], list[int]] = {}
    for i in np.flatnonzero(predictions.ok).tolist():
        name = predictions.patient[i]
        if name and name not in ambiguous:
            groups.setdefault((name, int(predictions.fold[i])), []).append(i)
    notes = list(predictions.notes)
    pairs = zip(predictions.patient, predictions.image, strict=True)
    if alike := spellings(name for name, image in pairs if name not in ("", image)):
        shown = "; ".join(map(describe, alike[:5]))
        notes.append(
            f"{len(alike)} patient(s) have two IDs and count as several: {shown}."
        )
    if ambiguous:
        shown = ", ".join(ambiguous[:5]) + (", …" if len(ambiguous) > 5 else "")
        notes.append(
            f"{len(ambiguous)} patient(s) with two grades left out of patient metrics: "
            f"{shown}."
        )
    unnamed = sum(not name for name in predictions.patient)
    if unnamed:
        notes.append(
            f"{unnamed} image(s) without a patient left out of patient metrics."
        )
    reduce = np.mean if aggregate == "mean" else np.max
    prob = [reduce(predictions.prob[at], axis=0) for at in groups.values()]
    return Predictions(
        patient=tuple(name for name, _ in groups),
        image=("",) * len(groups),
        fold=np.array([fold for _, fold in groups], np.int64),
        y=np.array([max(grades[n], default=UNKNOWN) for n, _ in groups], np.int64),
        prob=np.reshape(prob, (len(groups), predictions.prob.shape[1])),
        error=("",) * len(groups),
        notes=tuple(notes),
        classes=predictions.classes,
    )
