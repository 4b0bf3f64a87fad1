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
) -> tuple[model.Output, model.Output]:
    """The positive and the negative view, in one forward of 2 B rows.

    Args:
      apply: the network, called with arguments and the name of a `method`.
      image: x_glb.
      keep: M.
      fill: one of `views.FILLS`.
      patch: p, in pixels.
    """
    if fill == "drop":
        both = apply(image, keep, method="packed")
    elif fill == "token":
        shown = jnp.concatenate([keep, ~keep])
        both = apply(_stacked(image, image), shown, method="masked")
    elif isinstance(image, Bag):
        shown = jnp.concatenate([keep, ~keep])[..., 0]
        blank = views.blank_feature(image, fill)
        both = apply(image, blank, shown, method="masked_bag")
    else:
        pair = views.split(image, keep, patch=patch, fill=fill)
        both = apply(jnp.concatenate(pair), method="__call__")
    rows = len(keep)
    pos = jax.tree.map(lambda a: a[:rows], both)
    neg = jax.tree.map(lambda a: a[rows:], both)
    return pos, neg


def kept_fraction(
    keep: Bool[Array, "B h w"], valid: Bool[Array, "B T"] | None
) -> Float[Array, " B"]:
    """Fraction of the patches of each row that M keeps; of bags, without padding."""
    patches = keep[0].size if valid is None else valid.sum(axis=1)
    return keep.sum(axis=(1, 2), dtype=jnp.float32) / patches


def _stacked(pos: Any, neg: Any) -> Any:
    """The rows of two batches, of images or bags, as one."""
    return jax.tree.map(lambda *both: jnp.concatenate(both), pos, neg)
