"""Eq. (1) on the tokens of an encoder: of images, or of bags."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.paper import cam
from fof_jax.models import vit


def activation(
    encoder: vit.ViT,
    logits_of: Callable[[Float[Array, "B T D"]], Float[Array, "B J"]],
    tokens: Float[Array, "B T D"],
    target: Int[Array, " B"],
    *,
    valid: Bool[Array, "B T"] | None = None,
    scale: str = "minmax",
) -> cam.Activation:
    """Eq. (1) for the patches among the tokens of a block.

    A patch of a bag is a token: its grid is one column of T patches, which is also its
    image, and Y leaves it as it is.

    Args:
      encoder: its grid, image size and number of prepended tokens are read.
      logits_of: all tokens to logits.
      tokens: prepended tokens and patches.
      target: class whose evidence is sought.
      valid: of a bag, which makes A [B, T, 1]; None for images.
      scale: of A, see `cam.class_activation_map`.
    """
    ahead, patches = jnp.split(tokens, [encoder.num_prefix], axis=1)

    def logits_of_patches(v: jax.Array) -> jax.Array:
        return logits_of(jnp.concatenate([ahead, v], axis=1))  # [B, T, D]

    column = tokens.shape[1], 1
    return cam.class_activation_map(
        logits_of=logits_of_patches,
        tokens=patches,
        target=target,
        grid=encoder.grid if valid is None else column,
        image_size=encoder.image_size if valid is None else column,
        scale=scale,
        valid=None if valid is None else valid[..., None],
    )
