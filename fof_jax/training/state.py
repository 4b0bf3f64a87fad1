"""Training state and the update of one step, independent of the device layout."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.methods.base import Method, standardize
from fof_jax.training import optimizer as optim
from fof_jax.types import Batch, Params, State, StepContext, Variables


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint holds.

    Attributes:
      step: optimizer steps taken; it alone determines data order, random draws and
        learning rate.
      params, state: of the method.
      opt_state: moments of the optimizer.
    """

    step: Annotated[Any, "int32 scalar"]
    params: Params
    state: State
    opt_state: Any

    def variables(self, frozen: Params) -> Variables:
        """Variables of the method, with the constants of the fold."""
        return Variables(params=self.params, state=self.state, frozen=frozen)


@flax.struct.dataclass
class Schedule:
    """Inputs of a step that depend on its number and on the length of the run.

    Attributes:
      learning_rate: rate of the step.
      progress: fraction of the steps already taken, 0 … 1.
      epoch: from 0.
    """

    learning_rate: Annotated[Any, "float32 scalar"]
    progress: Annotated[Any, "float32 scalar"] = np.float32(0)
    epoch: Annotated[Any, "int32 scalar"] = np.int32(0)


# (state, batch [devices, B / devices, …], schedule, frozen) -> (state, metrics)
Step = Callable[
    [TrainState, Batch, Schedule, Params], tuple[TrainState, dict[str, jax.Array]]
]


def initial_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: Batch,
    frozen: Params | None = None,
) -> TrainState:
    """Parameters initialized from `key`, moments 0, step 0.

    Args:
      batch: its shapes decide those of the parameters.
      frozen: constants of the fold; None for none.
    """
    frozen = {} if frozen is None else frozen
    example = batch
    if batch.image is not None:  # as a method receives it
        pixels = np.zeros(batch.image.shape, np.float32)
        example = dataclasses.replace(batch, image=pixels)
    example = standardize(example, frozen)
    variables = _initialize(method, key, example, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        state=variables.state,
        opt_state=optimizer.init(variables.params),
    )


@functools.partial(jax.jit, static_argnums=0)
def _initialize(
    method: Method, key: jax.Array, example: Batch, frozen: Params
) -> Variables:
    """One program for all folds; equal methods are one."""
    return method.init(key, example, frozen)


def update(
    method: Method,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    schedule: Schedule,
    frozen: Params,
    key: jax.Array,
    *,
    gather: Callable[[jax.Array], jax.Array] = lambda a: a,
    mean: Callable[[Params], Params] = lambda a: a,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: gradient of the global loss, optimizer, new state.

    Args:
      frozen: constants of the fold; no gradient is taken of them.
      key: of this step.
      gather: see `StepContext`.
      mean: average of a tree over devices; the identity on one.

    Returns:
      The new state, and scalar metrics: the loss's and `grad_norm`.
    """
    ctx = StepContext(
        key=key, step=state.step, progress=schedule.progress, gather=gather
    )

    def loss(params: Params) -> tuple[jax.Array, Any]:
        variables = Variables(params=params, state=state.state, frozen=frozen)
        return method.loss(variables, batch, ctx)

    gradient, output = jax.grad(loss, has_aux=True)(state.params)
    gradient = mean(gradient)
    with jax.named_scope("optimizer"):
        direction, opt_state = optax.with_extra_args_support(optimizer).update(
            gradient, state.opt_state, state.params, epoch=schedule.epoch
        )
        params = optim.apply(state.params, direction, schedule.learning_rate)
    updated = Variables(params=params, state=output.state, frozen=frozen)
    metrics = output.metrics | {"grad_norm": optax.tree.norm(gradient)}
    new = TrainState(
        step=state.step + 1,
        params=params,
        state=method.update_state(updated, state.step),
        opt_state=opt_state,
    )
    return new, metrics
