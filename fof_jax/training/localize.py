"""Localization metrics of one fold: the maps of a model against the store's masks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fof_jax.data import loader
from fof_jax.data.augment import pipeline
from fof_jax.evaluation import localization
from fof_jax.methods.base import Explainer, Method
from fof_jax.types import Batch, Variables


def measure(
    method: Any,
    variables: Variables,
    reader: loader.ImageCache,
    rows: Sequence[int] | np.ndarray,
    *,
    image_size: int,
    batch_size: int,
    color: bool,
    fold: int,
) -> list[localization.Row]:
    """Localization metrics of the regions of `rows` that have a non-empty mask.

    Args:
      method, variables: the trained network.
      reader: decoded regions and their store.
      rows: positions in the store.
      image_size: side of the images.
      batch_size: regions at once, on one device.
      color: as in training.
      fold: goes into the rows.

    Returns:
      A row a region: image, patient, fold, grade (its name), and FIGURES; None where
      a figure does not exist. Empty where there are no masks.
    """
    data = reader.store
    read = ((int(i), data.read_mask(int(i), image_size)) for i in rows)
    masks = {i: mask for i, mask in read if mask is not None and mask.any()}
    if not masks:
        return []
    variables = jax.device_get(variables)
    results: list[localization.Row] = []
    for batch in loader.eval_batches(
        data, list(masks), batch_size=batch_size, image_size=image_size, cache=reader
    ):
        image = pipeline.normalize(jnp.asarray(batch.image), color=color)
        target = jnp.asarray(batch.grade)
        A = activation_map(method, variables, image, target)
        keep = np.asarray(method.patch_mask(A))
        A = np.asarray(A, np.float32)
        mask = np.stack([masks[int(i)] for i in batch.index])

        def shown(keep, image=image, target=target):
            return np.asarray(
                _probability(method, variables, image, target, keep), np.float64
            )

        deletion, insertion = localization.curves(
            shown, localization.ranks(A, keep.shape[1:])
        )
        figures = {
            "pointing": localization.pointing(A, mask),
            "inside": localization.inside(A, mask),
            "area": mask.mean(axis=(1, 2)),
            "iou": localization.iou(keep, mask),
            "deletion": deletion,
            "insertion": insertion,
        }
        for at in np.flatnonzero(batch.valid):
            i = int(batch.index[at])
            row = {"image": data.images[i], "patient": data.patients[i], "fold": fold}
            row["grade"] = data.classes[int(data.grades[i])]
            values = {name: float(column[at]) for name, column in figures.items()}
            results.append(
                row | {k: None if np.isnan(v) else v for k, v in values.items()}
            )
    return results


# Methods are static: the folds of a run share their programs.
@functools.partial(jax.jit, static_argnums=0)
def activation_map(
    method: Explainer,
    variables: Variables,
    image: Float[Array, "B H W C"],
    target: Int[Array, " B"],
) -> Float[Array, "B H W"]:
    """Class activation map of `target`."""
    return method.class_activation_map(variables, image, target)


@functools.partial(jax.jit, static_argnums=0)
def _probability(
    method: Method,
    variables: Variables,
    image: Float[Array, "B H W C"],
    target: Int[Array, " B"],
    keep: Bool[Array, "B h w"],
) -> Float[Array, " B"]:
    """Probability of `target` when only the patches of `keep` are shown."""
    p, q = (image.shape[k] // keep.shape[k] for k in (1, 2))
    pixels = jnp.repeat(jnp.repeat(keep, p, axis=1), q, axis=2)[..., None]
    logits = method.apply(variables, Batch(image=jnp.where(pixels, image, 0))).logits
    shares = jax.nn.softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(shares, target[:, None], axis=1)[:, 0]
