"""Batch inference: predictions and class activation maps of many images, resumable.

Results are written as they are computed. Until a job is done, its tables are in a
hidden staging folder below the output folder; the same command resumes there.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fof_jax import files
from fof_jax.data.cohort import Cohort
from fof_jax.evaluation import metrics
from fof_jax.evaluation.abstention import Rule
from fof_jax.evaluation.predictions import (
    UNKNOWN,
    Predictions,
    as_csv,
    read_predictions,
    read_warnings,
    write_predictions,
)
from fof_jax.inference import (
    bag_batch,
    bags,
    graph_input,
    image_warnings,
    names,
    pictures,
    provenance,
    resume,
    slides,
    tile_files,
)
from fof_jax.inference.image_scale import AT_20X, TrainingScale
from fof_jax.inference.inputs import ImageInput
from fof_jax.inference.model import TrainedModel, has_map, no_map_reason, reads_bags
from fof_jax.inference.outputs import PLOTS, TILES, GradePredictions
from fof_jax.inference.predictor import Predictor, longest_side
from fof_jax.inference.slide_file import is_slide

TRAINED = "images are training images of this model"
Progress = Callable[[int, int], None]


@runtime_checkable
class SlidePredictor(Protocol):
    """Predicts a whole slide; `slides.predict_slide` with its options."""

    def __call__(
        self, model: Predictor, path: Path, *, slide_mpp: float | None
    ) -> slides.SlidePrediction:
        """Predicts one.

        Args:
          model: that predicts.
          path: of the slide.
          slide_mpp: scale that the table states for it; None if it does not.
        """
        ...


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
    by_region = rules.get("region")
    identity = {"verb": "predict", "pictures": str(plots), **_identity(model, job)}
    identity |= {"abstain": str(rules)} if rules else {}
    with resume.staging_folder(out, images, identity) as staging:
        rows = staging / "predictions.csv"
        missing = np.zeros((0, len(model.classes)))
        header = as_csv(
            _table(model, (), missing, ()),
            spread=missing,
            warning=(),
            abstain=_abstained(by_region, missing),
        )
        first = resume.drop_partial_rows(rows, header, images)
        remaining = list(
            zip(images, names.stems([one.name for one in images]), strict=True)
        )[first:]
        folder = out / PLOTS if plots else None
        with rows.open("a", encoding="utf-8", newline="") as file:
            predictions = _predict(model, remaining, out, folder, predict_slide, scale)
            for i, row in enumerate(predictions, first):
                line = _table(model, images[i : i + 1], row.prob, row.error)
                file.write(
                    as_csv(
                        line,
                        spread=row.spread,
                        warning=row.warning,
                        abstain=_abstained(by_region, row.prob),
                        header=False,
                    )
                )
                file.flush()
                report_progress(i + 1 - first, len(remaining))
        table = read_predictions(rows)
        odd = read_warnings(rows)
        patients = metrics.by_patient(table)
        write_predictions(
            staging / "patients.csv",
            patients,
            abstain=_abstained(rules.get("patient"), patients.prob),
        )
        _write_about(out, about, table)
        for name in ("patients.csv", "predictions.csv"):
            (staging / name).replace(out / name)
    return dataclasses.replace(table, notes=(*odd, *table.notes))


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
    for row in _stream(model, images, AT_20X):
        rows.append(row)
        report_progress(len(rows), len(images))
    prob = np.concatenate([row.prob for row in rows])
    table = _table(model, images, prob, tuple(row.error[0] for row in rows))
    warnings = [row.warning[0] for row in rows]
    notes = [f"{i.name}: {w}" for i, w in zip(images, warnings, strict=True) if w]
    if trained := sum(image_warnings.TRAINING_IMAGE in text for text in warnings):
        notes.insert(
            0,
            f"{trained} of {len(images)} {TRAINED}: these metrics are not of unseen "
            "images",
        )
    return dataclasses.replace(table, notes=tuple(notes))


def explain(
    model: Predictor,
    images: Sequence[ImageInput],
    out: Path,
    *,
    target: str | None,
    report_progress: Progress,
    job: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    scale: TrainingScale = AT_20X,
) -> list[str]:
    """Writes the class activation map A of every image, as a plot and as an array.

    Args:
      model: of `load.load`.
      images: of `inputs.find`.
      out: folder for NAME.png and NAME.npy (A, float32, [H, W]; of bags [N], and also
        NAME.csv and NAME.geojson).
      target: class that A explains; None for the predicted one.
      report_progress, job, about, scale: as in `predict`.

    Returns:
      Errors of unreadable images, one line each.

    Raises:
      ValueError: no such class, a model without a map, or the folder holds results
        of another job.
    """
    bag_predictor = bags.BagPredictor(model) if reads_bags(model) else None
    if bag_predictor is None and not has_map(model):
        raise ValueError(
            f"checkpoint: no class activation map, {no_map_reason(model)}. Pass the "
            "folder of a run of 'fof', 'release' or 'vit' as --checkpoint."
        )
    model.class_index(target)
    scale.check(images)
    errors = []
    identity = {"verb": "explain", "target": str(target), **_identity(model, job)}
    with resume.staging_folder(out, images, identity):
        remaining = [
            (one, stem)
            for one, stem in zip(
                images, names.stems([one.name for one in images]), strict=True
            )
            if not (out / f"{stem}.npy").exists()  # written last
        ]
        for done, (one, stem) in enumerate(remaining, 1):
            try:
                if bag_predictor is not None:
                    bag_batch.explain(bag_predictor, one, out / stem, target)
                elif has_map(model):
                    _explain_region(model, one, out / stem, target, scale)
            except (ValueError, OSError) as error:
                errors.append(f"{one.name}: {_one_line(error, one)}")
            report_progress(done, len(remaining))
        _write_about(out, about)
    return errors


def _explain_region(
    model: TrainedModel,
    image: ImageInput,
    stem: Path,
    target: str | None,
    scale: TrainingScale,
) -> None:
    """Writes STEM.png and, last, STEM.npy."""
    if is_slide(image.path, longest_side(model)):
        raise ValueError(
            "a whole slide; `predict` maps its grades. Save a region of it as an image "
            "to explain it."
        )
    found = model.explain(image.path, target, zoom=scale.zoom(image))
    plot = stem.with_name(f"{stem.name}.png")
    pictures.plot_explanation(found, plot, model, _shown(image))
    save = functools.partial(np.save, arr=found.A.astype(np.float32))
    files.write_with(stem.with_name(f"{stem.name}.npy"), save)


def _write_about(
    out: Path, about: Mapping[str, Any] | None, table: Predictions | None = None
) -> None:
    if about is not None:
        counted = {} if table is None else {
            "images": len(table), "without_a_grade": int((~table.ok).sum())
        }  # fmt: skip
        provenance.write(out, about, **counted)


def _predict(
    model: Predictor,
    images: Sequence[tuple[ImageInput, str]],
    out: Path,
    folder: Path | None,
    predict_slide: SlidePredictor,
    scale: TrainingScale,
) -> Iterator[GradePredictions]:
    """One row per image, in order.

    Plots STEM.png into a folder unless it is None; writes a slide's tiles below `out`.
    """
    if reads_bags(model):
        yield from bag_batch.predict(model, images, out, plots=folder is not None)
        return
    longest = longest_side(model)
    groups = itertools.groupby(images, key=lambda pair: is_slide(pair[0].path, longest))
    for of_slides, group in groups:
        if not (of_slides or (folder is not None and has_map(model))):
            yield from _stream(model, [one for one, _ in group], scale)
            continue
        for one, stem in group:
            plot = None if folder is None else folder / f"{stem}.png"
            try:
                if of_slides:
                    tiles = out / TILES / stem
                    yield _predict_slide(model, predict_slide, one, tiles, plot)
                elif has_map(model):
                    yield _predict_region(model, one, plot, scale)
            except (ValueError, OSError) as error:
                missing = np.full((1, len(model.classes)), np.nan)
                reason = (str(error),)
                yield GradePredictions(missing, missing, model.classes, reason, ("",))


def _stream(
    model: Predictor, images: Sequence[ImageInput], scale: TrainingScale
) -> Iterator[GradePredictions]:
    vectors = (
        None if i.omics is None else np.asarray(i.omics, np.float32) for i in images
    )
    rows = model.stream((i.path for i in images), vectors, map(scale.zoom, images))
    for one, row in zip(images, rows, strict=True):
        yield row if row.error[0] else _warned(row, scale.warning(one))


def _warned(row: GradePredictions, warning: str) -> GradePredictions:
    """A row with one more warning, unless that is empty."""
    joined = "; ".join(filter(None, (*row.warning, warning)))
    return dataclasses.replace(row, warning=(joined,))


def _predict_region(
    model: TrainedModel, image: ImageInput, plot: Path | None, scale: TrainingScale
) -> GradePredictions:
    """Predicts and plots from one explanation, so that the file is read once."""
    explanation = model.explain(image.path, zoom=scale.zoom(image))
    if plot is not None:
        pictures.plot_explanation(explanation, plot, model, _shown(image))
    prob, spread = explanation.prob[None], explanation.spread[None]
    warning = (explanation.warning,)
    row = GradePredictions(prob, spread, model.classes, ("",), warning)
    return _warned(row, scale.warning(image))


def _predict_slide(
    model: Predictor,
    predict_slide: SlidePredictor,
    image: ImageInput,
    tiles: Path,
    plot: Path | None,
) -> GradePredictions:
    if model.omic_names:
        raise ValueError(
            f"a whole slide; method {model.config.method!r} needs omics, which are "
            "read for regions only. Save regions of the slide as images."
        )
    if model.reads_graphs:
        raise ValueError(
            f"a whole slide; {graph_input.only_regions(model.config.method)}"
        )
    slide = predict_slide(model, image.path, slide_mpp=image.mpp)
    tile_files.write(tiles, slide)
    if plot is not None:
        pictures.plot_slide(slide, plot, model, _shown(image))
    return slide.grades


def _table(
    model: Predictor,
    images: Sequence[ImageInput],
    prob: np.ndarray,
    error: Sequence[str],
) -> Predictions:
    index = {name: k for k, name in enumerate(model.classes)} | {"": UNKNOWN}
    return Predictions(
        patient=tuple(one.patient for one in images),
        image=tuple(one.name for one in images),
        fold=np.full(len(images), UNKNOWN),
        y=np.array([index[one.grade] for one in images], np.int64),
        prob=prob,
        error=tuple(
            _one_line(text, one) for one, text in zip(images, error, strict=True)
        ),
        classes=model.classes,
    )


def _shown(image: ImageInput) -> str:
    """The file's name, for a title."""
    return names.printable(image.path.name)


def _identity(model: Predictor, job: Mapping[str, str] | None) -> dict[str, str]:
    """What a resumed job must have in common with its beginning, besides images."""
    folds = ", ".join(Path(name).name for name in model.fold_names)
    options = {
        n: model.config.data[n] for n in ("small", "stain", "test_view", "color")
    }
    return {
        "model": provenance.model_hash(model),
        "folds": folds,
        "preprocessing": f"{options}, training images of {model.sides} pixels",
        **(job or {}),
    }


def _one_line(text: object, image: ImageInput) -> str:
    """An error message in one line, without the file name, which the row has."""
    message = str(text).removeprefix(f"{image.path.name}: ")
    return names.printable(" ".join(message.split()))


def _check_grades(model: Predictor, images: Sequence[ImageInput]) -> None:
    foreign = sorted({one.grade for one in images} - {*model.classes, ""})
    if foreign:
        raise ValueError(
            f"grade: {', '.join(foreign)} not among the model's classes "
            f"({', '.join(model.classes)}). Rename them, or leave the cells empty."
        )
