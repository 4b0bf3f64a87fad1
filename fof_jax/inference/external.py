"""A trained model on a cohort from elsewhere: its table in, predictions out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fof_jax.data.cohort import Cohort, read_cohort
from fof_jax.evaluation.predictions import UNKNOWN, Predictions

if TYPE_CHECKING:
    from fof_jax.inference.model import Model

Progress = Callable[[int, int], None]  # done, of


def read(table: Path, classes: tuple[str, ...]) -> Cohort:
    """A table with the columns image, patient, grade; others are left alone.

    Images are not opened yet: one that cannot be used becomes a row with its reason.

    Args:
      table: the CSV; images are relative to its folder.
      classes: of the model; the only grades that are taken.

    Raises:
      CohortError: anything in the table is wrong; all faults at once.
    """
    return read_cohort(table, classes=classes, biomarkers=(), decode=False)


def predict(model: "Model", cohort: Cohort, tell: Progress) -> Predictions:
    """Grades every image, one after the other; a few are in memory at a time.

    Args:
      model: of `fof_jax.load`, of a run's folder or an exported file.
      cohort: of `read`.
      tell: called after each image.

    Returns:
      A row an image, of no fold.
    """
    prob, error = [], []
    for done, row in enumerate(model.stream(r.image for r in cohort.rows), 1):
        prob.append(row.prob[0])
        error.append(row.error[0])
        tell(done, len(cohort.rows))
    return Predictions(
        patient=tuple(row.patient for row in cohort.rows),
        image=tuple(map(cohort.name_of, cohort.rows)),
        fold=np.full(len(cohort.rows), UNKNOWN, np.int64),
        y=np.array([row.grade for row in cohort.rows], np.int64),
        prob=np.array(prob, np.float64),
        error=tuple(error),
    )
