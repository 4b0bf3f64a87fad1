"""The exponential moving average of parameters that teaches its own network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fof_jax.types import Batch, Params


def alpha(step: Int[Array, ""] | int, *, decay: float) -> Float[Array, ""]:
    """min(1 - 1 / (step + 1), decay): 0 after step 0, which copies the parameters.

    Args:
      step: optimizer step, from 0.
      decay: largest value, 0.99 as published.

    Source: METHODS.md 5.7; methods/distillation.md, "Formulas" (EMA).
    """
    return jnp.minimum(1 - 1 / (jnp.asarray(step, jnp.float32) + 1), decay)


def second_view(batch: Batch, row: str) -> Float[Array, "B H W C"]:
    """The view that the average reads.

    Raises:
      ValueError: the batch has none.
    """
    if batch.second_view is None:
        raise ValueError(
            f"{row}: the batch has no second view, expected a second crop of each "
            'image for the moving average. Load it with second_view "crop".'
        )
    return batch.second_view


def teaching(average: Params, params: Params, step: Int[Array, ""]) -> Params:
    """The average that teaches in a step: at step 0 the parameters.

    Pretrained weights reach the parameters after the average was initialized.
    """
    return jax.tree.map(
        lambda old, new: jnp.where(step == 0, new, old), average, params
    )


def averaged(
    average: Params, params: Params, step: Int[Array, ""] | int, *, decay: float
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
