"""Cross-entropy of the comparison rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    *,
    logits: Float[Array, "B K"],
    grade: Int[Array, " B"],
    weight: Float[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[grade].

    Args:
      logits, grade: of each row.
      weight: of each row; None is 1. The sum is divided by B whatever the weights.

    Returns:
      the mean.

    Source: METHODS.md 3 (shared loss).
    """
    log_p = jax.nn.log_softmax(logits)
    of_row = -jnp.take_along_axis(log_p, grade[:, None], axis=1)[:, 0]
    return (of_row if weight is None else of_row * weight).mean()
