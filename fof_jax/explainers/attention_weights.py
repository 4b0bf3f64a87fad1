"""Attention of every block, and the gradient of a class's logit by it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fof_jax.explainers.base import Query, target_score
from fof_jax.models.vit_classifier import ViTClassifier

HIGHEST = lax.Precision.HIGHEST


def probabilities(model: ViTClassifier, query: Query) -> Float[Array, "L B heads T T"]:
    """Attention probabilities A of the L blocks; rows sum to 1."""
    tokens = model.embed(query.image)
    return _run(model, query, tokens, _zeros(model, tokens))[1]


def with_gradient(
    model: ViTClassifier, query: Query
) -> tuple[Float[Array, "L B heads T T"], Float[Array, "L B heads T T"]]:
    """A, and ds/dA with s the logit of the target."""
    tokens = model.embed(query.image)

    def score(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _run(model, query, tokens, added)

    # Added to A, zeros change nothing and have A's gradient.
    zeros = _zeros(model, tokens)
    (_, weights), slope = jax.value_and_grad(score, has_aux=True)(zeros)
    return weights, slope


def _run(
    model: ViTClassifier, query: Query, tokens: jax.Array, added: jax.Array
) -> tuple[Float[Array, ""], Float[Array, "L B heads T T"]]:
    """Score of the target with something added to each block's A; and every A."""
    captured: list[jax.Array] = []

    def attend(layer: int) -> Callable[..., jax.Array]:
        def with_added(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            p = _softmax(q, k)
            captured.append(p)
            p = (p + added[layer]).astype(v.dtype)
            return jnp.einsum("bhqk,bhkd->bhqd", p, v, precision=HIGHEST)

        return with_added

    out = model.run_attending(tokens, [attend(i) for i in range(model.depth)])
    return target_score(model.logits_of(out), query.target), jnp.stack(captured)


def _zeros(model: ViTClassifier, tokens: jax.Array) -> jax.Array:
    batch, length = tokens.shape[:2]
    return jnp.zeros((model.depth, batch, model.encoder.size.heads, length, length))


def propagate(
    steps: Float[Array, "L B T T"], pooling: Float[Array, " T"]
) -> Float[Array, "B T"]:
    """The pooled token's row of the product of all steps, the last block's leftmost.

    Args:
      steps: of each block, how its output tokens draw on its input tokens.
      pooling: weight of each token in the feature.

    Returns:
      How the feature draws on the tokens at the input.
    """
    row = jnp.broadcast_to(pooling, (steps.shape[1], len(pooling)))
    for step in steps[::-1]:
        row = jnp.einsum("bt,bts->bs", row, step, precision=HIGHEST)
    return row


def on_patches(model: ViTClassifier, row: Float[Array, "B T"]) -> Float[Array, "B h w"]:
    """The patches of a row of tokens, on the grid."""
    return row[:, model.num_prefix :].reshape(-1, *model.encoder.grid)


def _softmax(q: jax.Array, k: jax.Array) -> Float[Array, "B heads T T"]:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision=HIGHEST)
    return jax.nn.softmax(scores.astype(jnp.float32) / math.sqrt(q.shape[-1]))
