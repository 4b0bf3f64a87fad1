"""Linear heads of the distillation terms, which are dropped at test."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.models.linear import Linear
from fof_jax.types import Params


def initial(key: jax.Array, *, inputs: int, outputs: int) -> Params:
    """Kernel [inputs, outputs] and bias, uniform within 1 / sqrt(inputs)."""
    return Linear(outputs).init(key, jnp.zeros((1, inputs)))["params"]


def linear(params: Params, x: Float[Array, "B I"]) -> Float[Array, "B O"]:
    """x W + b."""
    return jnp.dot(x, params["kernel"]) + params["bias"][None]
