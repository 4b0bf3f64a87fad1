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


def patch_mask(
    A: Float[Array, "B H W"],
    *,
    patch: int,
    theta: float,
    share: float,
    valid: Bool[Array, "B T"] | None,
) -> Bool[Array, "B h w"]:
    """M of Eq. (2), or of the `share` of patches where A is largest.

    Args:
      A: maps; [B, T, 1] of bags.
      patch: p, in pixels.
      theta: threshold.
      share: fraction of the patches; 0 for Eq. (2).
      valid: of bags.
    """
    if share:
        counted = None if valid is None else valid[..., None]
        return views.keep_share(A, patch=patch, share=share, valid=counted)
    return views.keep_mask(A, patch=patch, theta=theta)


def kept_fraction(
    keep: Bool[Array, "B h w"], valid: Bool[Array, "B T"] | None
) -> Float[Array, " B"]:
    """Fraction of the patches of each row that M keeps; of bags, without padding."""
    patches = keep[0].size if valid is None else valid.sum(axis=1)
    return keep.sum(axis=(1, 2), dtype=jnp.float32) / patches


def _stacked(pos: Any, neg: Any) -> Any:
    """The rows of two batches, of images or bags, as one."""
    return jax.tree.map(lambda *both: jnp.concatenate(both), pos, neg)
