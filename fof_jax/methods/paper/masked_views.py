"""The three views of a batch: what a forward of each gives."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fof_jax.methods.paper import cam, model, views
from fof_jax.types import Bag


@flax.struct.dataclass
class Views:
    """The three views of a batch and how they came about.

    Attributes:
      tokens: v of Eq. (1); ahead of it, in encoders that have them, a class token
        and registers.
      activation: Eq. (1).
      keep: M of Eq. (2), True where the positive view keeps the patch; [B, T, 1] of
        bags.
      kept: fraction of the patches of each image that M keeps.
      glb, pos, neg: feature and logits of each view.
    """

    tokens: Float[Array, "B T D"]
    activation: cam.Activation
    keep: Bool[Array, "B h w"]
    kept: Float[Array, " B"]
    glb: model.Output
    pos: model.Output
    neg: model.Output


def forward(
    apply: Callable[..., model.Output],
    image: Float[Array, "B H W C"] | Bag,
    keep: Bool[Array, "B h w"],
    *,
    fill: str,
    patch: int,
) -> model.Output:
    """Both masked views in one forward: B positive rows, then B negative.

    Args:
      apply: the network, called with arguments and the name of a `method`.
      image: x_glb.
      keep: M.
      fill: one of `views.FILLS`.
      patch: p, in pixels.
    """
    if fill == "drop":
        return apply(image, keep, method="packed")
    if fill == "token":
        shown = jnp.concatenate([keep, ~keep])
        return apply(_stacked(image, image), shown, method="masked")
    if isinstance(image, Bag):
        pair: Any = views.split_bag(image, keep[..., 0], fill=fill)
    else:
        pair = views.split(image, keep, patch=patch, fill=fill)
    return apply(_stacked(*pair), method="__call__")


def _stacked(pos: Any, neg: Any) -> Any:
    """The rows of two batches, of images or bags, as one."""
    return jax.tree.map(lambda *both: jnp.concatenate(both), pos, neg)
