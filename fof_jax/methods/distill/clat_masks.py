"""CLAT's masks: the superpixels and omics whose increase raises the loss most."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

AREA_FLOOR = 1e-9
CAPACITY = 256  # a bound above every label of `Batch.superpixels`


def superpixel_scores(
    gradient: Float[Array, "B H W C"],
    labels: Int[Array, "B H W"],
    *,
    capacity: int,
    absent_zero: bool,
) -> Float[Array, "B L"]:
    r"""The mean signed gradient over each superpixel.

    .. math::
       a_n = \frac{\sum_{i \in n} \sum_c g_{ic}}{|n| + 10^{-9}}

    Args:
      gradient: of the loss with respect to the image.
      labels: superpixel of each pixel, 0 … L-1.
      capacity: L, a static bound above every label.
      absent_zero: score labels without a pixel 0, up to the batch's largest label, as
        published (M2); otherwise they score -inf, as labels beyond it always do.

    Returns:
      Scores [B, L].

    Source: methods/clat_pathgcn.md, CLAT stage 1, step 1 (M1, M2).
    """
    flat = labels.reshape(labels.shape[0], -1)
    summed = gradient.sum(-1).reshape(flat.shape)

    def of_labels(values: jax.Array) -> jax.Array:
        row = jnp.arange(len(flat))[:, None]
        return jnp.zeros((len(flat), capacity)).at[row, flat].add(values)

    area = of_labels(jnp.ones(flat.shape))
    possible = jnp.arange(capacity)[None] <= labels.max() if absent_zero else area > 0
    return jnp.where(possible, of_labels(summed) / (area + AREA_FLOOR), -jnp.inf)


def superpixel_mask(
    scores: Float[Array, "B L"], labels: Int[Array, "B H W"], *, count: int
) -> Bool[Array, "B H W"]:
    """True at the pixels of the `count` superpixels with the highest scores."""
    value, highest = jax.lax.top_k(scores, count)
    highest = jnp.where(jnp.isfinite(value), highest, -1)
    return (labels[..., None] == highest[:, None, None]).any(-1)


def omic_mask(gradient: Float[Array, "B M"], *, count: int) -> Bool[Array, "B M"]:
    """True where the signed gradient is at least the `count`-th largest of its row.

    Ties at that place mask more than `count` entries, as published (M3).

    Source: methods/clat_pathgcn.md, CLAT stage 1, step 1.
    """
    largest, _ = jax.lax.top_k(gradient, count)
    return gradient >= largest[:, -1:]
