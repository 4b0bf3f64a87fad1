"""Rows over their Euclidean norm, with a zero gradient where a row is zero."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(
    x: Float[Array, "*rows D"], *, floor: float = 1e-12
) -> Float[Array, "*rows D"]:
    """x / |x| along the last axis.

    Args:
      x: rows.
      floor: a row whose norm is not above it gives 0 with gradient 0. The published
        x / max(|x|, floor) has the gradient 1 / floor there.

    Returns:
      rows of norm 1, or zero rows.

    Source: methods/distillation.md, "Formulas" (u).
    """
    square = (x * x).sum(axis=-1, keepdims=True)
    small = square <= floor**2
    # The square root is taken of 1 there: its derivative at 0 is infinite.
    norm = jnp.sqrt(jnp.where(small, 1.0, square))
    return jnp.where(small, 0.0, x / norm)
