"""Occlusion: how far the class's logit falls when one patch is blank."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fof_jax.explainers.base import Query
from fof_jax.models.vit_classifier import ViTClassifier


def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Logit of the target with the whole image, less that without the patch.

    A hidden patch is 0 in the normalized image, as in Eq. (2). The network runs P
    times.

    Source: Zeiler and Fergus, Visualizing and understanding convolutional networks
    (ECCV 2014), Sec. 4.2, with the patches as windows.
    """
    h, w = model.encoder.grid
    p = model.encoder.patch

    def logit(image: jax.Array) -> Float[Array, " B"]:
        logits = model.logits(image)
        return jnp.take_along_axis(logits, query.target[:, None], axis=1)[:, 0]

    def without(patch: jax.Array) -> Float[Array, " B"]:
        rows, columns = (jnp.arange(n * p) // p for n in (h, w))
        hidden = (rows[:, None] == patch // w) & (columns[None] == patch % w)
        return logit(jnp.where(hidden[None, ..., None], 0, query.image))

    fallen = logit(query.image)[None] - lax.map(without, jnp.arange(h * w))  # [P, B]
    return fallen.T.reshape(-1, h, w)
