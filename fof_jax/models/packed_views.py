"""Two masked views of an image as one sequence of its patches.

The mask and its complement divide the patches, so that both views together have P
patches. Each view has its own copy of the class token and the registers, and attention
stays within a view. The patches are sorted by view, so that attention over many skips
the tiles between the views; their positions are in their values already.
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
      A tokens of the positive view, A of the negative one, and the P patches, sorted by
      segment, S = 2 A + P; and the segment of each, for `attention.attention`.
    """
    ahead, patches = jnp.split(tokens, [num_prefix], axis=1)
    shape = (tokens.shape[0], num_prefix)
    of_patch = jnp.where(keep, POSITIVE, NEGATIVE)
    if valid is not None:
        of_patch = jnp.where(valid, of_patch, PADDING)
    order = jnp.argsort(of_patch, axis=1, stable=True)
    patches = jnp.take_along_axis(patches, order[..., None], axis=1)
    segments = jnp.concatenate(
        [
            jnp.full(shape, POSITIVE, jnp.int32),
            jnp.full(shape, NEGATIVE, jnp.int32),
            jnp.take_along_axis(of_patch, order, axis=1).astype(jnp.int32),
        ],
        axis=1,
    )
    return jnp.concatenate([ahead, ahead, patches], axis=1), segments


def pool(
    tokens: Float[Array, "B S D"],
    segments: Int[Array, "B S"],
    *,
    num_prefix: int,
    pooling: str,
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """Features of the positive and of the negative view, see `vit.ViT.pool`.

    Args:
      tokens: normalized, in the order of `pack`.
      segments, num_prefix: as of `pack`.
      pooling: "patches", the mean of the view's own patches, or "class_token".

    Returns:
      A feature per view; the mean of no patches is 0, and has no gradient.
    """
    if pooling == "class_token":
        return tokens[:, 0], tokens[:, num_prefix]
    patches, of_patch = tokens[:, 2 * num_prefix :], segments[:, 2 * num_prefix :]
    return (
        valid_mean(patches, of_patch == POSITIVE),
        valid_mean(patches, of_patch == NEGATIVE),
    )
