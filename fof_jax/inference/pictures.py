"""Plots of `predict` and `explain`, with titles: name, predicted grade, spread."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from fof_jax.inference.outputs import Explanation
from fof_jax.inference.predictor import Predictor
from fof_jax.inference.slides import SlidePrediction

# visualization is imported inside: tables alone should not load Matplotlib.


def plot_explanation(
    explanation: Explanation, path: Path, model: Predictor, name: str
) -> None:
    """Plots the class activation map and the patch mask of one image."""
    from fof_jax.inference import visualization

    visualization.plot_explanation(
        path,
        pixels=explanation.pixels,
        A=explanation.A,
        keep=explanation.keep,
        patch=explanation.patch,
        title=title(
            model, name, explanation.prob, explanation.spread, explanation.target
        ),
    )


def plot_slide(slide: SlidePrediction, path: Path, model: Predictor, name: str) -> None:
    """Plots the predicted grade of each tile over the thumbnail of a slide."""
    from fof_jax.inference import visualization

    row = slide.grades
    visualization.plot_slide(
        path,
        thumbnail=slide.thumbnail,
        tiles=slide.tiles,
        corners=slide.corners * slide.ratio,
        side=slide.side * slide.ratio,
        classes=model.classes,
        title=title(model, name, row.prob[0], row.spread[0]),
    )


def title(
    model: Predictor,
    name: str,
    prob: Float[np.ndarray, " K"],
    spread: Float[np.ndarray, " K"],
    target: str | None = None,
) -> str:
    """Name, predicted grade and, if it differs, the class that A explains."""

    def describe(k: int) -> str:
        std = f" ± {spread[k]:.2f} over folds" if len(model.fold_names) > 1 else ""
        return f"{model.classes[k]}, p = {prob[k]:.2f}{std}"

    best, explained = int(np.argmax(prob)), model.class_index(target)
    other = "" if explained in (None, best) else f"; A is for {describe(explained)}"
    return f"{name}\npredicted {describe(best)}{other}"
