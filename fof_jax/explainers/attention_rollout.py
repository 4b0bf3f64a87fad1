"""Attention rollout: how the pooled token draws on the patches, for no class."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.explainers import attention_weights
from fof_jax.explainers.base import Query
from fof_jax.models.vit_classifier import ViTClassifier


def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    r"""Product over the blocks of half attention, half identity.

    .. math::
       \prod_l \tfrac{1}{2} (\bar A_l + I), \quad \bar A \text{ the mean over heads}

    Args:
      model: network. Without a class token the rows of the pooled patches are averaged.
      query: images; the target is not read.

    Returns:
      Evidence of every patch, the same for every class.

    Source: Abnar and Zuidema, Quantifying attention flow in transformers (ACL 2020).
    """
    p = attention_weights.probabilities(model, query).mean(axis=2)
    step = 0.5 * (p + jnp.eye(p.shape[-1])[None, None])
    row = attention_weights.propagate(step, model.pooling_weights())
    return attention_weights.on_patches(model, row)
