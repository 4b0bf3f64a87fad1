"""Metadata of a synthetic cohort without images."""

import numpy as np

from fof_jax.data.metadata import Metadata


def columns(n=60, per_patient=3, folds=None, grades=None) -> Metadata:
    patients = [i // per_patient for i in range(n)]
    grades = [p % 3 for p in patients] if grades is None else grades
    return Metadata(
        classes=("II", "III", "IV"),
        biomarkers=("idh",),
        float_markers=(),
        images=tuple(f"{i:03d}.png" for i in range(n)),
        patients=tuple(f"P{p}" for p in patients),
        grades=np.array(grades, np.int32),
        biomarker_values=np.zeros((n, 1), np.int32),
        known=np.ones((n, 1), bool),
        floats=np.zeros((n, 0), np.float32),
        folds=None if folds is None else np.array(folds, np.int32),
    )
