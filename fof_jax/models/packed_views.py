"""Two masked views of an image as one sequence of its patches.

The mask and its complement divide the patches, so that both views together have P
patches. Each view has its own copy of the class token and the registers, and attention
stays within a view; the order of the tokens does not matter to it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

POSITIVE, NEGATIVE = 1, 0  # segments of the two views


def pack(
    tokens: Float[Array, "B T D"], keep: Bool[Array, "B P"], *, num_prefix: int
) -> tuple[Float[Array, "B S D"], Int[Array, "B S"]]:
    """Input of block 0 for both views.

    Args:
      tokens: A prepended tokens and P patches, with positions, T = A + P.
      keep: patches of the positive view; the others are those of the negative one.
      num_prefix: A.

    Returns:
      A tokens of the positive view, A of the negative one, and the P patches in their
      order, S = 2 A + P; and the segment of each, for `attention.attention`.
    """
    ahead, patches = jnp.split(tokens, [num_prefix], axis=1)
    shape = (tokens.shape[0], num_prefix)
    segments = jnp.concatenate(
        [
            jnp.full(shape, POSITIVE, jnp.int32),
            jnp.full(shape, NEGATIVE, jnp.int32),
            jnp.where(keep, POSITIVE, NEGATIVE).astype(jnp.int32),
        ],
        axis=1,
    )
    return jnp.concatenate([ahead, ahead, patches], axis=1), segments


def pool(
    tokens: Float[Array, "B S D"],
    keep: Bool[Array, "B P"],
    *,
    num_prefix: int,
    pooling: str,
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """Features of the positive and of the negative view, see `vit.ViT.pool`.

    Args:
      tokens: normalized, in the order of `pack`.
      keep, num_prefix: as for `pack`.
      pooling: "patches", the mean of the view's own patches, or "class_token".

    Returns:
      A feature per view; the mean of no patches is 0, and has no gradient.
    """
    if pooling == "class_token":
        return tokens[:, 0], tokens[:, num_prefix]
    patches = tokens[:, 2 * num_prefix :]

    def mean(shown: Bool[Array, "B P"]) -> jax.Array:
        count = jnp.maximum(shown.sum(axis=1, keepdims=True), 1)
        return jnp.where(shown[..., None], patches, 0).sum(axis=1) / count

    return mean(keep), mean(~keep)
