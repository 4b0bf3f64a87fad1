"""Eq. (1): the class activation map A of the true grade."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

SCALES = ("minmax", "max")  # P3: `min_max`, `over_max`


@flax.struct.dataclass
class Activation:
    """Eq. (1) with its intermediate results, for inspection and parity.

    Attributes:
      gradient: ds/dv at every patch.
      alpha: the weight of each channel.
      relu_map: ReLU(sum_k alpha_k v^k) on the grid.
      A: the map at image size, in [0, 1].
    """

    gradient: Float[Array, "B P D"]
    alpha: Float[Array, "B D"]
    relu_map: Float[Array, "B h w"]
    A: Float[Array, "B H W"]


def class_activation_map(
    *,
    logits_of: Callable[[Float[Array, "B P D"]], Float[Array, "B J"]],
    tokens: Float[Array, "B P D"],
    target: Int[Array, " B"],
    grid: tuple[int, int],
    image_size: tuple[int, int],
    scale: str = "minmax",
    valid: Bool[Array, "B h w"] | None = None,
) -> Activation:
    r"""Eq. (1).

    .. math::
       \alpha_k = \sum_{i,j} \partial s / \partial v^k_{ij}, \quad
       A = \Upsilon(\mathrm{ReLU}(\sum_k \alpha_k v^k), [H, W])

    s is the logit of `target`, v the tokens of one block (P1). Only the network's
    tail, tokens to logits, is differentiated.

    Args:
      logits_of: the tail, [B, P, D] tokens to [B, J] logits.
      tokens: v, row-major over the grid.
      target: class whose evidence is sought; the true grade in training.
      grid: h, w with P = h w.
      image_size: H, W.
      scale: one of SCALES: what gives theta its scale (P3).
      valid: False on padding of a bag, whose grid is its image: A is 0 there, and the
        minimum is that of the valid patches. None for images.

    Returns:
      The map and its parts. Nothing in it carries a gradient (P10).

    Source: Eq. (1); P1-P3.
    """
    tokens = lax.stop_gradient(tokens)
    gradient = token_gradient(logits_of=logits_of, tokens=tokens, target=target)
    tokens, gradient = tokens.astype(jnp.float32), gradient.astype(jnp.float32)
    with jax.named_scope("cam"):
        alpha, relu_map = weighted_sum(tokens=tokens, gradient=gradient, grid=grid)
        if valid is not None:
            relu_map = jnp.where(valid, relu_map, 0)
        A = upsample(relu_map, image_size=image_size)
        A = min_max(A, valid) if scale == "minmax" else over_max(A)
    return lax.stop_gradient(
        Activation(gradient=gradient, alpha=alpha, relu_map=relu_map, A=A)
    )


def token_gradient(
    *,
    logits_of: Callable[[Float[Array, "B P D"]], Float[Array, "B J"]],
    tokens: Float[Array, "B P D"],
    target: Int[Array, " B"],
) -> Float[Array, "B P D"]:
    """ds/dv of Eq. (1): the first back-propagation."""

    def score(v: jax.Array) -> jax.Array:
        # Samples do not interact, so the gradient of the sum is each one's own.
        s = jnp.take_along_axis(logits_of(v), target[:, None], axis=1)
        return s.sum()

    return jax.grad(score)(tokens)


def weighted_sum(
    *,
    tokens: Float[Array, "B P D"],
    gradient: Float[Array, "B P D"],
    grid: tuple[int, int],
) -> tuple[Float[Array, "B D"], Float[Array, "B h w"]]:
    """alpha and ReLU(sum_k alpha_k v^k) of Eq. (1), on the grid."""
    alpha = gradient.sum(axis=1)
    # HIGHEST: TPUs and recent GPUs would round the factors to fewer bits, and the
    # threshold of Eq. (2) turns rounding into another mask.
    evidence = jnp.einsum("bpd,bd->bp", tokens, alpha, precision=lax.Precision.HIGHEST)
    return alpha, jax.nn.relu(evidence).reshape(-1, *grid)


def upsample(
    relu_map: Float[Array, "B h w"], *, image_size: tuple[int, int]
) -> Float[Array, "B H W"]:
    """Y of Eq. (1): bilinear, half-pixel centres, borders replicated (P2)."""
    shape = (relu_map.shape[0], *image_size)
    return jax.image.resize(relu_map, shape, method="bilinear", antialias=False)


def min_max(
    A: Float[Array, "B H W"], valid: Bool[Array, "B H W"] | None = None
) -> Float[Array, "B H W"]:
    """Scales each map to [0, 1]; a constant map becomes 0 (P3).

    Args:
      A: maps, at least 0.
      valid: places that count, the others become 0; None for all.
    """
    low = (A if valid is None else jnp.where(valid, A, jnp.inf)).min(
        axis=(1, 2), keepdims=True
    )
    spread = A.max(axis=(1, 2), keepdims=True) - low
    counts = spread > 0 if valid is None else valid & (spread > 0)
    return jnp.where(counts, (A - low) / jnp.where(spread > 0, spread, 1), 0)


def over_max(A: Float[Array, "B H W"]) -> Float[Array, "B H W"]:
    """Divides each map by its maximum, the other reading of P3; 0 stays 0."""
    high = A.max(axis=(1, 2), keepdims=True)
    return jnp.where(high > 0, A / jnp.where(high > 0, high, 1), 0)
