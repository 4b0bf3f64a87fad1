"""Predictions and maps of many HDF5 files of patch features, for `batch`."""

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fof_jax import files
from fof_jax.data.errors import DataWarning
from fof_jax.inference import bag_files, bag_slides, bags, pictures
from fof_jax.inference.inputs import ImageInput
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.outputs import PLOTS, TILES, GradePredictions


def predict(
    model: TrainedModel,
    images: Sequence[tuple[ImageInput, str]],
    out: Path,
    *,
    plots: bool,
) -> Iterator[GradePredictions]:
    """One row per file, in order; a file that cannot be predicted is one with an error.

    Args:
      model: of bags.
      images: with the stems of their outputs.
      out: folder for the tables and GeoJSON below `TILES`, and plots below `PLOTS`.
      plots: whether to compute maps and write these.
    """
    predictor, size = bags.BagPredictor(model), model.config.data.get("patch_size")
    for image, stem in images:
        try:
            if not plots:
                yield predictor.grade(image.path, patch_size=size)
                continue
            prediction = predictor.predict(image.path, patch_size=size)
            plot = out / PLOTS / f"{stem}.png"
            warning = _write(model, image, prediction, out / TILES / stem, plot)
        except (ValueError, OSError) as error:
            files.raise_if_full(error)
            missing = np.full((1, len(model.classes)), np.nan)
            yield GradePredictions(
                missing, missing, model.classes, (str(error),), ("",)
            )
        else:
            yield dataclasses.replace(prediction.grades, warning=(warning,))


def explain(
    predictor: bags.BagPredictor,
    image: ImageInput,
    stem: Path,
    *,
    target: str | None,
) -> None:
    """Writes STEM.csv, STEM.geojson, STEM.png and, last, STEM.npy (A, float32, [N]).

    Warns:
      DataWarning: what is missing of the slide.

    Raises:
      ValueError: as `BagPredictor.predict`.
    """
    model = predictor.model
    size = model.config.data.get("patch_size")
    prediction = predictor.predict(image.path, target=target, patch_size=size)
    warning = _write(model, image, prediction, stem, stem.with_name(f"{stem.name}.png"))
    if warning:
        warnings.warn(f"{image.name}: {warning}", DataWarning, stacklevel=2)
    save = functools.partial(np.save, arr=prediction.A.astype(np.float32))
    files.write_with(stem.with_name(f"{stem.name}.npy"), save)


def _write(
    model: TrainedModel,
    image: ImageInput,
    prediction: bags.BagPrediction,
    stem: Path,
    plot: Path,
) -> str:
    """Writes tables and plot; what is missing of the slide, or ""."""
    placed = bag_slides.place(
        image.path, prediction.coords, prediction.side, prediction.unit,
        slide=image.slide, slide_mpp=image.mpp,
    )  # fmt: skip
    prob, spread = prediction.grades.prob[0], prediction.grades.spread[0]
    title = pictures.title(model, image.file_name, prob, spread, prediction.target)
    bag_files.write(stem, plot, prediction, placed, title)
    return placed.warning
