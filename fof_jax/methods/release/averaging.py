"""The exponential moving average of the projection heads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fof_jax.types import State, Variables


def averaged(variables: Variables, step: Int[Array, ""], *, decay: float) -> State:
    """The averaged heads after the optimizer step: alpha old + (1 - alpha) trained.

    alpha = min(1 - 1/(step + 1), decay): at step 0 the average, an independent draw
    until then, is overwritten by the trained heads (Q22).

    Args:
      variables: the trained heads after the step, the average before it.
      step: optimizer step, from 0.
      decay: 0.999.
    """
    # 1 - alpha, because 1 - 0.999 loses four digits in float32.
    beta = jnp.maximum(1 / (step + 1), 1 - decay)  # Q22
    average = jax.tree.map(
        lambda old, new: (1 - beta) * old + beta * new,
        variables.state["global_projectors"],
        variables.params["local_projectors"],
    )
    return {"global_projectors": average}
