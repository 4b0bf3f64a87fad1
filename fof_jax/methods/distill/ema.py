"""The exponential moving average of parameters that teaches its own network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fof_jax.types import Params


def alpha(step: Int[Array, ""], *, decay: float) -> Float[Array, ""]:
    """min(1 - 1 / (step + 1), decay): 0 after step 0, which copies the parameters.

    Args:
      step: optimizer step, from 0.
      decay: largest value, 0.99 as published.

    Source: METHODS.md 5.7; methods/distillation.md, "Formulas" (EMA).
    """
    return jnp.minimum(1 - 1 / (jnp.asarray(step, jnp.float32) + 1), decay)


def averaged(
    average: Params, params: Params, step: Int[Array, ""], *, decay: float
) -> Params:
    """alpha times the average plus 1 - alpha times the parameters, after a step.

    Args:
      average: before.
      params: after the optimizer's step; batch statistics are not averaged.
      step, decay: see `alpha`.

    Returns:
      the new average.

    Source: methods/distillation.md, "Formulas" (EMA).
    """
    a = alpha(step, decay=decay)
    return jax.tree.map(lambda old, new: a * old + (1 - a) * new, average, params)
