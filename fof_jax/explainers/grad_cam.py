"""Grad-CAM as used for Vision Transformers: on the last block's first LayerNorm."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from fof_jax.explainers.base import Query, target_score
from fof_jax.models.vit_classifier import ViTClassifier


def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    r"""Channels weighted by their mean gradient, then ReLU.

    .. math::
       \mathrm{ReLU}(\sum_k \alpha_k y^k), \quad
       \alpha_k = \frac{1}{P} \sum_{ij} \partial s / \partial y^k_{ij}

    y is the input of the last block's attention, where a class token still reads the
    patches. At one and the same layer Eq. (1), which sums where this takes the mean,
    is P times this map; scaled to [0, 1] they are equal.

    Source: Selvaraju et al., Grad-CAM (ICCV 2017), Eq. (1) and (2); the layer is the
    one that the library pytorch-grad-cam names for ViTs.
    """
    before = model.run(model.embed(query.image), 0, model.depth - 1)
    last = jax.tree.map(lambda a: a[-1], model.params["blocks"])
    y = _norm(model, before, last["norm_attention"])
    slope = _gradient_by_input(model, query, before) @ last["qkv"]["kernel"].T
    patches, slope = (a[:, model.num_prefix :] for a in (y, slope))
    alpha = slope.mean(axis=1)
    evidence = jnp.einsum("bpd,bd->bp", patches, alpha, precision=lax.Precision.HIGHEST)
    return jax.nn.relu(evidence).reshape(-1, *model.encoder.grid)


def _norm(model: ViTClassifier, tokens: jax.Array, params) -> Float[Array, "B T D"]:
    norm = nn.LayerNorm(
        epsilon=model.encoder.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False
    )
    return norm.apply({"params": params}, tokens)  # type: ignore[return-value]


def _gradient_by_input(
    model: ViTClassifier, query: Query, before: jax.Array
) -> Float[Array, "B T E"]:
    """ds/d(q, k, v) of the last block, as one row of 3 D numbers per token."""
    batch, length, width = before.shape

    def score(added: jax.Array) -> jax.Array:
        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            parts = added.reshape(batch, length, 3, model.encoder.size.heads, -1)
            dq, dk, dv = parts.transpose(2, 0, 3, 1, 4)  # each [B, heads, T, d]
            return jax.nn.dot_product_attention(
                *(a.swapaxes(1, 2) for a in (q + dq, k + dk, v + dv))
            ).swapaxes(1, 2)

        out = model.run_attending(before, [attend], first=model.depth - 1)
        return target_score(model.logits_of(out), query.target)

    return jax.grad(score)(jnp.zeros((batch, length, 3 * width)))
