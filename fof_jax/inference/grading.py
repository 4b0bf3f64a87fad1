"""Grades of images, slides and bags: one row per input, in order.

An input that cannot be read becomes a row with an error.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fof_jax import files
from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.inference import bag_batch, graph_input, pictures, slides, tile_files
from fof_jax.inference.image_scale import TrainingScale
from fof_jax.inference.inputs import ImageInput
from fof_jax.inference.model import TrainedModel, has_map, reads_bags
from fof_jax.inference.outputs import TILES, GradePredictions
from fof_jax.inference.predictor import Predictor, longest_side
from fof_jax.inference.slide_file import is_slide


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


def grade(
    model: Predictor,
    images: Sequence[tuple[ImageInput, str]],
    out: Path,
    *,
    plots: Path | None,
    predict_slide: SlidePredictor,
    scale: TrainingScale,
) -> Iterator[GradePredictions]:
    """Predicts the grade of each input.

    Args:
      model: of `load.load`.
      images: inputs, each with the stem of its output files.
      out: folder below which a slide's tiles are written.
      plots: folder for STEM.png; None for no plots.
      predict_slide: predicts whole slides.
      scale: of the training images.

    Yields:
      One row per input.
    """
    if reads_bags(model):
        yield from bag_batch.predict(model, images, out, plots=plots is not None)
        return
    longest = longest_side(model)
    groups = itertools.groupby(images, key=lambda pair: is_slide(pair[0].path, longest))
    for of_slides, group in groups:
        if not (of_slides or (plots is not None and has_map(model))):
            yield from grade_regions(model, [one for one, _ in group], scale)
            continue
        for one, stem in group:
            plot = None if plots is None else plots / f"{stem}.png"
            try:
                if of_slides:
                    tiles = out / TILES / stem
                    yield _grade_slide(model, predict_slide, one, tiles, plot)
                elif has_map(model):
                    yield _grade_and_plot(model, one, plot, scale)
            except (ValueError, OSError) as error:
                files.raise_if_full(error)
                yield _failed(model, str(error))


def grade_regions(
    model: Predictor, images: Sequence[ImageInput], scale: TrainingScale
) -> Iterator[GradePredictions]:
    """One row per image, without slides and plots; batched across images."""
    vectors = (
        None if i.omics is None else np.asarray(i.omics, np.float32) for i in images
    )
    rows = model.stream((i.path for i in images), vectors, map(scale.zoom, images))
    for one, row in zip(images, rows, strict=True):
        yield row if row.error[0] else _with_warning(row, scale.warning(one))


def as_table(
    model: Predictor,
    images: Sequence[ImageInput],
    prob: np.ndarray,
    error: Sequence[str],
) -> Predictions:
    """Rows of predictions.csv, without a fold.

    Args:
      model: that predicted.
      images: inputs, one per row.
      prob: probabilities, [n, K].
      error: message per row, "" where there is a prediction.
    """
    index = {name: k for k, name in enumerate(model.classes)} | {"": UNKNOWN}
    return Predictions(
        patient=tuple(one.patient for one in images),
        image=tuple(one.name for one in images),
        fold=np.full(len(images), UNKNOWN),
        y=np.array([index[one.grade] for one in images], np.int64),
        prob=prob,
        error=tuple(
            one.error_line(text) for text, one in zip(error, images, strict=True)
        ),
        classes=model.classes,
    )


def _grade_and_plot(
    model: TrainedModel, image: ImageInput, plot: Path | None, scale: TrainingScale
) -> GradePredictions:
    """Predicts and plots from one explanation, so that the file is read once."""
    explanation = model.explain(image.path, zoom=scale.zoom(image))
    if plot is not None:
        pictures.plot_explanation(explanation, plot, model, image.file_name)
    prob, spread = explanation.prob[None], explanation.spread[None]
    warning = (explanation.warning,)
    row = GradePredictions(prob, spread, model.classes, ("",), warning)
    return _with_warning(row, scale.warning(image))


def _grade_slide(
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
        pictures.plot_slide(slide, plot, model, image.file_name)
    return slide.grades


def _with_warning(row: GradePredictions, warning: str) -> GradePredictions:
    """A row with one more warning, unless that is empty."""
    joined = "; ".join(filter(None, (*row.warning, warning)))
    return dataclasses.replace(row, warning=(joined,))


def _failed(model: Predictor, error: str) -> GradePredictions:
    """The row of an input that could not be predicted."""
    missing = np.full((1, len(model.classes)), np.nan)
    return GradePredictions(missing, missing, model.classes, (error,), ("",))
