"""Training state and the optimizer update, independent of how devices are arranged."""

from collections.abc import Callable
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fof_jax.methods.base import Gather, Method
from fof_jax.training import optimizer as optim
from fof_jax.types import Batch, Params, State, Variables


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint holds.

    Attributes:
      step: optimizer steps taken; it alone fixes data order, draws and rate.
      params, state: of the method.
      opt_state: Adam's moments.
    """

    step: Annotated[Any, "int32 scalar"]
    params: Params
    state: State
    opt_state: Any

    @property
    def variables(self) -> Variables:
        """The part that the method knows."""
        return Variables(params=self.params, state=self.state)


Step = Callable[
    [TrainState, Batch, np.float32], tuple[TrainState, dict[str, jax.Array]]
]


def update(
    method: Method,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    learning_rate: Float[Array, ""],
    key: jax.Array,
    *,
    gather: Gather = lambda a: a,
    mean: Callable[[Params], Params] = lambda a: a,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The step itself: gradient of the global loss, optimizer, carried state.

    Args:
      gather: see `Method.loss`.
      mean: average of a tree over devices; the identity on one.
    """

    def loss(params: Params) -> tuple[jax.Array, Any]:
        variables = Variables(params=params, state=state.state)
        return method.loss(variables, batch, key, gather=gather)

    gradient, aux = jax.grad(loss, has_aux=True)(state.params)
    gradient = mean(gradient)
    with jax.named_scope("optimizer"):
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optim.apply(state.params, direction, learning_rate)
    carried = method.after_update(Variables(params=params, state=aux.state), state.step)
    metrics = aux.metrics | {"grad_norm": optax.tree.norm(gradient)}
    new = TrainState(
        step=state.step + 1, params=params, state=carried, opt_state=opt_state
    )
    return new, metrics


def initial_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: Batch,
) -> TrainState:
    """Parameters drawn from `key`, moments at 0, step 0."""
    variables = jax.jit(method.init)(key, batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        state=variables.state,
        opt_state=optimizer.init(variables.params),
    )
