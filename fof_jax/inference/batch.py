"""Batch inference: predictions of many images, resumable.

Rows are written as they are computed. Until a job is done, its tables are in a hidden
staging folder below the output folder; the same command resumes there. `grading` makes
the rows, `maps` has the same for class activation maps alone.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.data.cohort import Cohort
from fof_jax.evaluation.abstention import Rule
from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.predictions import (
    Predictions,
    as_csv,
    read_predictions,
    read_warnings,
    write_predictions,
)
from fof_jax.inference import (
    grading,
    image_warnings,
    names,
    provenance,
    resume,
    slides,
)
from fof_jax.inference.grading import SlidePredictor
from fof_jax.inference.image_scale import AT_20X, TrainingScale
from fof_jax.inference.inputs import ImageInput, with_stems
from fof_jax.inference.model import reads_bags
from fof_jax.inference.outputs import PLOTS, GradePredictions
from fof_jax.inference.predictor import Predictor

TRAINED = "images are training images of this model"
Progress = Callable[[int, int], None]


def predict(
    model: Predictor,
    images: Sequence[ImageInput],
    out: Path,
    *,
    plots: bool,
    report_progress: Progress,
    job: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    predict_slide: SlidePredictor = slides.predict_slide,
    scale: TrainingScale = AT_20X,
    abstain: Mapping[str, Rule] | None = None,
) -> Predictions:
    """Predicts the grade of every image; an unreadable one becomes a row with an error.

    Args:
      model: of `load.load`.
      images: of `inputs.find`.
      out: folder for predictions.csv, patients.csv and, below it, `PLOTS`.
      plots: whether to plot the class activation map of each image, if the model has
        gradients, and the tile grades of each slide.
      report_progress: called with (done, total); images of an earlier, interrupted run
        are not counted.
      job: what identifies this job besides its images and the model.
      about: content of about.json, of `provenance.describe`; None writes none.
      predict_slide: predicts whole slides.
      scale: of the training images, for images that state theirs.
      abstain: rules by unit, "region" and "patient"; the tables get a column
        `abstain`, of predictions.csv by the former and of patients.csv by the latter.
        None or {} for none.

    Returns:
      Content of predictions.csv; its notes are its warnings, and the patients that are
      left out of patients.csv.

    Raises:
      ValueError: a grade that is not a class of the model; the folder holds results
        of another job.
    """
    _check_grades(model, images)
    scale.check(images)
    rules = dict(abstain or {})
    for rule in rules.values():
        rule.require(model.classes)
    identity = provenance.identity(model, job, verb="predict", pictures=str(plots))
    identity |= {"abstain": str(rules)} if rules else {}
    with resume.staging_folder(out, images, identity) as staging:
        path = staging / "predictions.csv"
        rows = _Rows(model, rules.get("region"))
        first = resume.drop_partial_rows(path, rows.header(), images)
        remaining = with_stems(images)[first:]
        with path.open("a", encoding="utf-8", newline="") as file:
            predictions = grading.grade(
                model,
                remaining,
                out,
                plots=out / PLOTS if plots else None,
                predict_slide=predict_slide,
                scale=scale,
            )
            pairs = zip(images[first:], predictions, strict=True)
            for done, (image, prediction) in enumerate(pairs, 1):
                file.write(rows.line(image, prediction))
                file.flush()
                report_progress(done, len(remaining))
        table, warnings = read_predictions(path), read_warnings(path)
        patients = by_patient(table)
        write_predictions(
            staging / "patients.csv",
            patients,
            abstain=_abstained(rules.get("patient"), patients.prob),
        )
        if about is not None:
            failed = int((~table.ok).sum())
            provenance.write(out, about, images=len(table), without_a_grade=failed)
        for name in ("patients.csv", "predictions.csv"):
            (staging / name).replace(out / name)
    return dataclasses.replace(table, notes=(*warnings, *table.notes))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Writes predictions.csv of a model line by line."""

    model: Predictor
    abstain: Rule | None

    def header(self) -> str:
        missing = np.zeros((0, len(self.model.classes)))
        return as_csv(
            grading.as_table(self.model, (), missing, ()),
            spread=missing,
            warning=(),
            abstain=_abstained(self.abstain, missing),
        )

    def line(self, image: ImageInput, row: GradePredictions) -> str:
        return as_csv(
            grading.as_table(self.model, [image], row.prob, row.error),
            spread=row.spread,
            warning=row.warning,
            abstain=_abstained(self.abstain, row.prob),
            header=False,
        )


def _abstained(rule: Rule | None, prob: np.ndarray) -> list[bool] | None:
    """The rows that a rule does not answer; None without a rule."""
    return None if rule is None else rule.abstains(prob).tolist()


def predict_cohort(
    model: Predictor, cohort: Cohort, report_progress: Progress
) -> Predictions:
    """Predicts the grade of every image of a cohort table, with bounded memory.

    Args:
      model: of `load.load`.
      cohort: of `read_cohort` with `decode=False`, the model's classes and, where it
        needs them, its omics.
      report_progress: called with (done, total) after each image.

    Returns:
      One row per image, without fold; an unreadable image is a row with an error. Its
      notes are what is odd about images, and how many the model was trained on.
    """
    if reads_bags(model):
        raise ValueError(
            "checkpoint: the model reads patch features. Grade the table with `predict "
            "--images=TABLE`; metrics: `eval --predictions=…/predictions.csv`."
        )
    images = [
        ImageInput(
            path=row.image,
            name=names.printable(cohort.name_of(row)),
            patient=names.printable(row.patient),
            grade=model.classes[row.grade],
        )
        for row in cohort.rows
    ]
    if model.omic_names:
        images = [
            dataclasses.replace(
                one, omics=tuple(math.nan if v is None else v for v in row.omics)
            )
            for one, row in zip(images, cohort.rows, strict=True)
        ]
    rows = []
    for row in grading.grade_regions(model, images, AT_20X):
        rows.append(row)
        report_progress(len(rows), len(images))
    prob = np.concatenate([row.prob for row in rows])
    table = grading.as_table(model, images, prob, tuple(row.error[0] for row in rows))
    warnings = [row.warning[0] for row in rows]
    notes = [f"{i.name}: {w}" for i, w in zip(images, warnings, strict=True) if w]
    if trained := sum(image_warnings.TRAINING_IMAGE in text for text in warnings):
        notes.insert(
            0,
            f"{trained} of {len(images)} {TRAINED}: these metrics are not of unseen "
            "images",
        )
    return dataclasses.replace(table, notes=tuple(notes))


def _check_grades(model: Predictor, images: Sequence[ImageInput]) -> None:
    foreign = sorted({one.grade for one in images} - {*model.classes, ""})
    if foreign:
        raise ValueError(
            f"grade: {', '.join(foreign)} not among the model's classes "
            f"({', '.join(model.classes)}). Rename them, or leave the cells empty."
        )
