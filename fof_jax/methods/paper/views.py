"""Eq. (2): the mask M of patches, and the positive and negative views."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fof_jax.models.vit import valid_mean
from fof_jax.types import Bag

# P4: what stands in a masked patch. zero and mean are pixels, see `split`; token is a
# trained embedding in the patch's place, see `model.Model.masked`; drop is nothing, the
# patch leaves the sequence, see `model.Model.packed`.
FILLS = ("zero", "mean", "token", "drop")


def patch_mean(A: Float[Array, "B H W"], *, patch: int) -> Float[Array, "B h w"]:
    """The mean contribution score of every patch."""
    b, height, width = A.shape
    A = A.reshape(b, height // patch, patch, width // patch, patch)
    return A.mean(axis=(2, 4))


@jax.named_scope("views")
def keep_mask(
    A: Float[Array, "B H W"], *, patch: int, theta: float
) -> Bool[Array, "B h w"]:
    r"""Eq. (2), first line.

    .. math::
       M_{ij} = \frac{1}{p^2} \sum_{m,n} A_{pi+m,\,pj+n} > \theta

    Args:
      A: contribution scores in [0, 1].
      patch: p, in pixels.
      theta: 0.5 in the paper.

    Returns:
      M, bool [B, h, w]: True on patches that the positive view keeps.

    Source: Eq. (2).
    """
    return patch_mean(A, patch=patch) > theta


@jax.named_scope("views")
def split(
    image: Float[Array, "B H W C"],
    keep: Bool[Array, "B h w"],
    *,
    patch: int,
    fill: str = "zero",
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """x_pos = x (.) M and x_neg = x (.) (1 - M), second line of that equation.

    A masked patch is 0 in the normalised image, and its token stays in the sequence
    (P4).

    Args:
      image: x_glb, normalised.
      keep: M.
      patch: p, in pixels.
      fill: "mean" puts the image's own mean colour where "zero" puts 0.

    Returns:
      x_pos, x_neg.
    """
    pixels = jnp.repeat(jnp.repeat(keep, patch, axis=1), patch, axis=2)[..., None]
    blank = jnp.zeros((), image.dtype)
    if fill == "mean":
        blank = image.mean(axis=(1, 2), keepdims=True)
    return jnp.where(pixels, image, blank), jnp.where(pixels, blank, image)


def blank_feature(bag: Bag, fill: str) -> Float[Array, "B 1 C"]:
    """What stands in the masked patches of a bag: 0, or the mean of its patches."""
    features = jnp.asarray(bag.features)
    if fill == "mean":
        return valid_mean(features, jnp.asarray(bag.valid))[:, None]
    return jnp.zeros_like(features[:, :1])
