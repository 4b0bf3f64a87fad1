"""The focus map of the authors' code: a principal component, at any block."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.explainers.base import Explain, Query
from fof_jax.explainers.equation1 import split_at
from fof_jax.methods.paper import cam
from fof_jax.methods.release import cam as release_cam
from fof_jax.models.vit_classifier import ViTClassifier


def at_block(block: int) -> Explain:
    """First principal component of the weighted patches, its sign by Eq. (1) (Q1, Q2).

    Args:
      block: from -depth to -1; -2 in the authors' code (Q7).
    """

    def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
        _, patches, logits_of = split_at(model, query, block)
        gradient = cam.token_gradient(
            logits_of=logits_of, tokens=patches, target=query.target
        )
        return release_cam.map_of(
            tokens=patches.astype(jnp.float32),
            gradient=gradient.astype(jnp.float32),
            grid=model.encoder.grid,
            image_size=model.encoder.image_size,
        ).projection

    return explain
