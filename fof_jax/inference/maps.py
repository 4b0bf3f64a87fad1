"""Class activation maps of many images or bags, each as a plot and as an array."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax import files
from fof_jax.inference import bag_batch, bags, pictures, provenance, resume
from fof_jax.inference.image_scale import AT_20X, TrainingScale
from fof_jax.inference.inputs import ImageInput, with_stems
from fof_jax.inference.model import TrainedModel, has_map, no_map_reason, reads_bags
from fof_jax.inference.predictor import Predictor, longest_side
from fof_jax.inference.slide_file import is_slide


def explain(
    model: Predictor,
    images: Sequence[ImageInput],
    out: Path,
    *,
    target: str | None,
    report_progress: Callable[[int, int], None],
    job: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    scale: TrainingScale = AT_20X,
) -> list[str]:
    """Writes the class activation map A of every image or bag, resumable.

    Args:
      model: of `load.load`.
      images: of `inputs.find`, or of `bags.find` for a model of bags.
      out: folder for NAME.png and NAME.npy (A, float32, [H, W]); of a bag, NAME.npy
        is [N], and NAME.csv and NAME.geojson list its patches.
      target: class that A explains; None for the predicted one.
      report_progress, job, about, scale: as in `batch.predict`.

    Returns:
      Errors of unreadable images, one line each.

    Raises:
      ValueError: no such class, a model without a map, or the folder holds results
        of another job.
    """
    write: Callable[[ImageInput, Path], None]
    if reads_bags(model):
        predictor = bags.BagPredictor(model)
        write = functools.partial(bag_batch.explain, predictor, target=target)
    elif has_map(model):
        write = functools.partial(_explain_image, model, target=target, scale=scale)
    else:
        raise ValueError(
            f"checkpoint: no class activation map, {no_map_reason(model)}. Pass the "
            "folder of a run of 'fof', 'release' or 'vit' as --checkpoint."
        )
    model.class_index(target)
    scale.check(images)
    errors = []
    identity = provenance.identity(model, job, verb="explain", target=str(target))
    with resume.staging_folder(out, images, identity):
        remaining = [
            (one, stem)
            for one, stem in with_stems(images)
            if not (out / f"{stem}.npy").exists()  # written last
        ]
        for done, (one, stem) in enumerate(remaining, 1):
            try:
                write(one, out / stem)
            except (ValueError, OSError) as error:
                files.raise_if_full(error)
                errors.append(f"{one.name}: {one.error_line(error)}")
            report_progress(done, len(remaining))
        if about is not None:
            provenance.write(out, about)
    return errors


def _explain_image(
    model: TrainedModel,
    image: ImageInput,
    stem: Path,
    *,
    target: str | None,
    scale: TrainingScale,
) -> None:
    """Writes STEM.png and, last, STEM.npy."""
    if is_slide(image.path, longest_side(model)):
        raise ValueError(
            "a whole slide; `predict` maps its grades. Save a region of it as an image "
            "to explain it."
        )
    explanation = model.explain(image.path, target, zoom=scale.zoom(image))
    plot = stem.with_name(f"{stem.name}.png")
    pictures.plot_explanation(explanation, plot, model, image.file_name)
    save = functools.partial(np.save, arr=explanation.A.astype(np.float32))
    files.write_with(stem.with_name(f"{stem.name}.npy"), save)
