"""Two masked views of an image as one sequence of its patches.

The mask and its complement divide the patches, so that both views together have P
patches. Each view has its own copy of the class token and the registers, and attention
stays within a view; the order of the tokens does not matter to it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fof_jax.models.vit import valid_mean

POSITIVE, NEGATIVE, PADDING = 1, 0, 2  # segments of the two views, and of neither


def pack(
    tokens: Float[Array, "B T D"],
    keep: Bool[Array, "B P"],
    *,
    num_prefix: int,
    valid: Bool[Array, "B P"] | None = None,
) -> tuple[Float[Array, "B S D"], Int[Array, "B S"]]:
    """Input of block 0 for both views.

    Args:
      tokens: A prepended tokens and P patches, with positions, T = A + P.
      keep: patches of the positive view; the others are those of the negative one.
      num_prefix: A.
      valid: False on padding, which is in neither view; None for no padding.

    Returns:
      A tokens of the positive view, A of the negative one, and the P patches in their
      order, S = 2 A + P; and the segment of each, for `attention.attention`.
    """
    ahead, patches = jnp.split(tokens, [num_prefix], axis=1)
    shape = (tokens.shape[0], num_prefix)
    of_patch = jnp.where(keep, POSITIVE, NEGATIVE)
    if valid is not None:
        of_patch = jnp.where(valid, of_patch, PADDING)
    segments = jnp.concatenate(
        [
            jnp.full(shape, POSITIVE, jnp.int32),
            jnp.full(shape, NEGATIVE, jnp.int32),
            of_patch.astype(jnp.int32),
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
    valid: Bool[Array, "B P"] | None = None,
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """Features of the positive and of the negative view, see `vit.ViT.pool`.

    Args:
      tokens: normalized, in the order of `pack`.
      keep, num_prefix, valid: as for `pack`.
      pooling: "patches", the mean of the view's own patches, or "class_token".

    Returns:
      A feature per view; the mean of no patches is 0, and has no gradient.
    """
    if pooling == "class_token":
        return tokens[:, 0], tokens[:, num_prefix]
    patches = tokens[:, 2 * num_prefix :]
    hidden = ~keep if valid is None else valid & ~keep
    return valid_mean(patches, keep), valid_mean(patches, hidden)
