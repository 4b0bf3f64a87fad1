"""What the page shows of an image or a slide, as JSON values; rows of its table."""

import base64
import csv
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fof_jax.data import images
from fof_jax.evaluation.abstention import Rule
from fof_jax.evaluation.predictions import as_csv
from fof_jax.inference import grading, pictures, slides, tile_files, visualization
from fof_jax.inference.inputs import ImageInput
from fof_jax.inference.model import has_map
from fof_jax.inference.outputs import Explanation
from fof_jax.inference.predictor import Predictor
from fof_jax.inference.serve.uploads import RequestError

MIN_MARGIN = 0.2  # of the two largest probabilities; below, the page says "uncertain"
_TEMPORARY = "image"  # name of the file while it is decoded
_SIDE = 1024  # maximum side of returned images, in pixels


def grade_image(
    model: Predictor,
    body: bytes,
    target: str | None,
    max_pixels: int,
    rule: Rule | None = None,
    name: str = "image",
) -> dict[str, Any]:
    """Grades one image.

    Returns:
      name, classes, prob, spread, pred, second (the next most probable class),
      uncertain (their probabilities differ by less than min_margin), abstain (the rule
      gives no answer; null without a rule), row (cells of predictions.csv) and the
      image as the model reads it; for a model with a map also target, kept (the
      fraction of patches) and the plots. Images are data URIs.

    Raises:
      RequestError: not an image, too large, or no such class.
    """
    try:
        model.class_index(target)
        pixels = decode(body, max_pixels)
        if has_map(model):
            result = model.explain(pixels, target)
            prob, spread, read = result.prob, result.spread, result.pixels
            images_ = {"target": result.target, "kept": float(result.keep.mean())}
            images_ |= _plots(result)
            warning = result.warning
        else:
            grades = model.predict([pixels])
            prob, spread, images_ = grades.prob[0], grades.spread[0], {}
            warning = grades.warning[0]
            read = model.preprocess(pixels).pixels
    except ValueError as error:
        text = str(error).replace(f" '{_TEMPORARY}'", "")
        text = re.sub(f"^{_TEMPORARY}: ", "the image cannot be read: ", text)
        raise RequestError(422, without_paths(text)) from None
    common = _common(model, name, prob, spread, warning, rule)
    return common | {"original": data_uri(read), **images_}


def grade_slide(
    model: Predictor,
    path: Path,
    name: str,
    *,
    mpp: float,
    slide_mpp: float | None,
    rule: Rule | None = None,
) -> dict[str, Any]:
    """Grades a whole slide.

    Args:
      model: of `load.load`.
      path: of the slide.
      name: that is shown.
      mpp: micrometers per pixel of the training images.
      slide_mpp: of the slide at level 0, if its file does not state it.
      rule: of regions, which is used for slides, too.

    Returns:
      As `grade_image`, with slide (the plot of its tiles), tiles (their number),
      tiles_csv and geojson (text of the files that `predict` writes) in the place of
      the image and the map.

    Raises:
      RequestError: a file that cannot be read, or without a scale or tissue.
    """
    try:
        prediction = slides.predict_slide(
            model, path, mpp=mpp, slide_mpp=slide_mpp, maps=has_map(model)
        )
        polygons = tile_files.as_json(tile_files.features(prediction))
    except (ValueError, OSError) as error:
        text = str(error).replace("--slide_mpp", "the micrometers per pixel")
        raise RequestError(422, without_paths(text)) from None
    with tempfile.TemporaryDirectory() as folder:
        plot = Path(folder) / "slide.png"
        pictures.plot_slide(prediction, plot, model, name)
        picture = _png_uri(plot.read_bytes())
    grades = prediction.grades
    common = _common(
        model, name, grades.prob[0], grades.spread[0], grades.warning[0], rule
    )
    return common | {
        "slide": picture,
        "tiles": len(prediction.tiles),
        "tiles_csv": tile_files.table(prediction),
        "geojson": polygons,
    }


def _common(
    model: Predictor,
    name: str,
    prob: np.ndarray,
    spread: np.ndarray,
    warning: str,
    rule: Rule | None,
) -> dict[str, Any]:
    """Values of images and slides alike."""
    best, second = np.argsort(-prob, kind="stable")[:2].tolist()
    abstain = None if rule is None else bool(rule.abstains(prob[None])[0])
    return {
        "name": name,
        "classes": list(model.classes),
        "prob": prob.tolist(),
        "spread": spread.tolist(),
        "pred": model.classes[best],
        "second": model.classes[second],
        "uncertain": bool(prob[best] - prob[second] < MIN_MARGIN),
        "min_margin": MIN_MARGIN,
        "abstain": abstain,
        "warning": warning,
        "row": _cells(model, name, prob, spread, warning, abstain),
    }


def failed_row(model: Predictor, name: str, error: str, rule: Rule | None) -> list[str]:
    """Cells of predictions.csv of a file that could not be graded."""
    missing = np.full(len(model.classes), np.nan)
    abstain = None if rule is None else False
    return _cells(model, name, missing, missing, "", abstain, error=error)


def columns(model: Predictor, rule: Rule | None) -> list[str]:
    """Header of predictions.csv, as `predict` writes it."""
    missing = np.zeros((0, len(model.classes)))
    text = as_csv(
        grading.as_table(model, (), missing, ()),
        spread=missing,
        warning=(),
        abstain=None if rule is None else (),
    )
    return next(csv.reader([text]))


def _cells(
    model: Predictor,
    name: str,
    prob: np.ndarray,
    spread: np.ndarray,
    warning: str,
    abstain: bool | None,
    *,
    error: str = "",
) -> list[str]:
    image = ImageInput(Path(name), name, name)
    text = as_csv(
        grading.as_table(model, [image], prob[None], [error]),
        spread=spread[None],
        warning=[warning],
        abstain=None if abstain is None else [abstain],
        header=False,
    )
    return next(csv.reader(io.StringIO(text, newline="")))


def without_paths(message: str) -> str:
    """A message without the folders of this machine, which are nobody's business."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", message)


def decode(body: bytes, max_pixels: int) -> Any:
    """Decodes to RGB, uint8 [H, W, 3]; the header is checked first.

    Raises:
      ValueError: not an image, an unsupported one, or too many pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _TEMPORARY
        path.write_bytes(body)
        with images.quiet_decoding():
            header = images.read_header(path)
            if header.height * header.width > max_pixels:
                raise ValueError(
                    f"image of {header.width} x {header.height} pixels; expected "
                    f"{max_pixels:,} pixels or fewer"
                )
            return images.read(path)


def _plots(result: Explanation) -> dict[str, str]:
    plots = {
        "overlay": visualization.overlay(result.pixels, result.A),
        "patches": visualization.masked(result.pixels, result.keep, patch=result.patch),
    }
    return {name: data_uri(pixels) for name, pixels in plots.items()}


def data_uri(pixels: Any) -> str:
    """Pixels as a PNG, at most `_SIDE` wide and high."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return _png_uri(buffer.getvalue())


def _png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
