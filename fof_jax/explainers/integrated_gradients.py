"""Integrated gradients from a gray image, summed over each patch."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fof_jax.explainers.base import Query, target_score
from fof_jax.models.vit_classifier import ViTClassifier

STEPS = 32  # gradients per image


def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Sum of the attributions of each patch's pixels and channels."""
    b, height, width, c = query.image.shape
    h, w = model.encoder.grid
    parts = attributions(model, query)
    return parts.reshape(b, h, height // h, w, width // w, c).sum(axis=(2, 4, 5))


def attributions(
    model: ViTClassifier, query: Query, *, steps: int = STEPS
) -> Float[Array, "B H W C"]:
    r"""Contribution of every pixel and channel to the logit of the target.

    .. math::
       x_i \int_0^1 \frac{\partial s(t x)}{\partial x_i} dt

    The path starts at 0 in the normalized image, the blank of Eq. (2).

    Args:
      model, query: network and images.
      steps: nodes of the Gauss-Legendre rule that takes the integral.

    Returns:
      Attributions, whose sum over an image approaches s(x) - s(0).

    Source: Sundararajan, Taly and Yan, Axiomatic attribution for deep networks (2017).
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    at = jnp.asarray((nodes + 1) / 2, jnp.float32)
    weight = jnp.asarray(weights / 2, jnp.float32)

    def score(image: jax.Array) -> jax.Array:
        return target_score(model.logits(image), query.target)

    def add(total: jax.Array, node: tuple[jax.Array, jax.Array]):
        t, share = node
        return total + share * jax.grad(score)(t * query.image), None

    zero = jnp.zeros_like(query.image)
    return query.image * lax.scan(add, zero, (at, weight))[0]
