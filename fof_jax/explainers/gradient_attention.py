"""Gradient-weighted attention: rollout of the attention that raises the class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.explainers import attention_weights
from fof_jax.explainers.base import Query
from fof_jax.models.vit_classifier import ViTClassifier


def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    r"""Relevance R of the input tokens, for encoders with self-attention only.

    .. math::
       R \leftarrow R + \bar A_l R, \quad
       \bar A_l = E_h[(\nabla A_l \odot A_l)^+], \quad R_0 = I

    Args:
      model: network. The row of the class token is read; without one, the mean of the
        rows of the pooled patches.
      query: images and the class that is differentiated.

    Returns:
      Evidence of every patch. The identity is left out: each token's relevance to
      itself, which in a mean over patches is the same for all.

    Source: Chefer, Gur and Wolf, Generic attention-model explainability (ICCV 2021),
    Eq. (5) and (6).
    """
    weights, slope = attention_weights.with_gradient(model, query)
    raising = jax.nn.relu(slope * weights).mean(axis=2)
    step = raising + jnp.eye(raising.shape[-1])[None, None]
    pooling = model.pooling_weights()
    row = attention_weights.propagate(step, pooling) - pooling[None]
    return attention_weights.on_patches(model, row)
