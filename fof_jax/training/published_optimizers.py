"""Optimizers of the comparison methods as published: Adam with L2, epochs, freezing.

Like the other optimizers, a transformation here gives a direction without the learning
rate, which is an input of the compiled step. A subtree of the parameters is named by
the keys that lead to it, e.g. ("omics_network",); () is all parameters.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

Params = Any  # a pytree of float32 arrays
Subtree = tuple[str, ...]


class AdamL2State(NamedTuple):
    """State of `adam_l2`; every tree has the structure of the parameters.

    Attributes:
      count: steps that a tensor has taken.
      mean, square: moving averages of the gradient and its square.
    """

    count: Params
    mean: Params
    square: Params


def adam_l2(
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    frozen_epochs: Mapping[Subtree, int | None] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam on the gradient plus weight_decay times the parameter.

    A frozen tensor is skipped as PyTorch's Adam skips one without gradient: it does not
    move, is not decayed, and its step count, which corrects the averages, starts when
    it is freed.

    Args:
      beta1, beta2, eps: of Adam.
      weight_decay: coefficient of the L2 term in the gradient (not decoupled).
      frozen_epochs: by subtree, for how many epochs it is frozen; None is always.

    Returns:
      a transformation whose update takes `epoch`, int32 from 0, where a subtree is
      freed at some epoch, and `params`.

    Raises:
      ValueError: on initialization, a subtree does not exist; on update, the
        parameters or the epoch are missing.

    Source: methods/fusion.md "pathomic"; methods/fusion_corrections.md 8, 9.
    """
    frozen = dict(frozen_epochs or {})

    def init(params: Params) -> AdamL2State:
        for subtree in frozen:
            _check_subtree(params, subtree)
        return AdamL2State(
            count=jax.tree.map(lambda p: jnp.zeros((), jnp.int32), params),
            mean=jax.tree.map(jnp.zeros_like, params),
            square=jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        updates: Params,
        state: AdamL2State,
        params: Params | None = None,
        *,
        epoch: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[Params, AdamL2State]:
        del extra
        if params is None:
            raise ValueError("adam_l2: params is None, expected the parameters.")
        if epoch is None and any(frozen.values()):
            raise ValueError(
                "adam_l2: epoch is None, expected the epoch from 0, because "
                f"frozen_epochs is {frozen}. Pass epoch to update."
            )
        free = _free(params, frozen, epoch)
        decayed = jax.tree.map(lambda g, p: g + weight_decay * p, updates, params)
        count = jax.tree.map(lambda c, f: c + f, state.count, free)
        mean = _moment(state.mean, decayed, free, decay=beta1, power=1)
        square = _moment(state.square, decayed, free, decay=beta2, power=2)

        def direction(
            m: jax.Array, v: jax.Array, c: jax.Array, f: jax.Array
        ) -> jax.Array:
            steps = jnp.maximum(c, 1).astype(jnp.float32)  # no 0 / 0 before the first
            corrected = m / (1 - beta1**steps)
            scale = jnp.sqrt(v / (1 - beta2**steps)) + eps
            return jnp.where(f, corrected / scale, 0)

        moved = jax.tree.map(direction, mean, square, count, free)
        return moved, AdamL2State(count, mean, square)

    return optax.GradientTransformationExtraArgs(init, update)


def _moment(
    old: Params, gradient: Params, free: Params, *, decay: float, power: int
) -> Params:
    """Moving average of a power of the gradient; a frozen tensor keeps its own."""
    return jax.tree.map(
        lambda g, m, f: jnp.where(f, decay * m + (1 - decay) * g**power, m),
        gradient,
        old,
        free,
    )


def linear_epochs(
    epoch: int, *, learning_rate: float, constant_epochs: int, decay_epochs: int
) -> float:
    """Learning rate of epoch 0, 1, …: constant, then linear towards 0.

    lr (1 - max(0, epoch + 1 - constant_epochs) / (decay_epochs + 1)); the last of
    constant_epochs + decay_epochs epochs still has a rate above 0.

    Args:
      epoch: from 0.
      learning_rate: lr.
      constant_epochs: epochs at the full rate, `niter`; with 0 the first epoch already
        has less.
      decay_epochs: `niter_decay`.

    Returns:
      the rate.

    Raises:
      ValueError: a number of epochs is negative.

    Source: METHODS.md 8 and 9; methods/fusion_corrections.md 9.
    """
    if min(epoch, constant_epochs, decay_epochs) < 0:
        raise ValueError(
            f"linear_epochs: got epoch {epoch}, constant_epochs {constant_epochs}, "
            f"decay_epochs {decay_epochs}, expected 0 or more of each."
        )
    decayed = max(0, epoch + 1 - constant_epochs)
    return learning_rate * max(0.0, 1 - decayed / (decay_epochs + 1))


def l1_norm(params: Params, *, subtree: Subtree = ()) -> Float[Array, ""]:
    """Sum of the absolute values of a subtree, biases and classifiers included.

    Args:
      params: parameters.
      subtree: see the module.

    Returns:
      the sum.

    Raises:
      ValueError: the subtree does not exist.

    Source: METHODS.md 5.0; methods/fusion_corrections.md 5.
    """
    _check_subtree(params, subtree)
    parts = [
        jnp.abs(leaf).sum()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if _within(path, subtree)
    ]
    return jnp.stack(parts).sum()


def add_l1(weight: float, *, subtree: Subtree = ()) -> optax.GradientTransformation:
    """Adds the gradient of weight * l1_norm to the gradient; goes before Adam.

    Args:
      weight: lambda.
      subtree: see the module.

    Returns:
      a transformation without state; its update takes `params`.

    Raises:
      ValueError: on update, the subtree does not exist or the parameters are missing.

    Source: METHODS.md 5.0 (L1 penalty).
    """

    def add(updates: Params, params: Params | None) -> Params:
        if params is None:
            raise ValueError("add_l1: params is None, expected the parameters.")
        _check_subtree(params, subtree)
        return jax.tree_util.tree_map_with_path(
            lambda path, g, p: (
                g + weight * jnp.sign(p) if _within(path, subtree) else g
            ),
            updates,
            params,
        )

    return optax.stateless(add)


def moving_average(
    average: Params, params: Params, *, step: Int[Array, ""] | int, decay: float
) -> Params:
    """a average + (1 - a) params with a = min(1 - 1 / (step + 1), decay).

    Args:
      average: before the step.
      params: after the step.
      step: from 0; the first copies the parameters.
      decay: largest a.

    Returns:
      the new average.

    Source: METHODS.md 5.7; methods/fusion.md "x22".
    """
    a = jnp.minimum(1 - 1 / (jnp.asarray(step, jnp.float32) + 1), decay)
    return jax.tree.map(lambda m, p: a * m + (1 - a) * p, average, params)


def _free(params: Params, frozen: Mapping[Subtree, int | None], epoch: Any) -> Params:
    """For each tensor whether it takes this step, bool scalars."""

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        del leaf
        free = jnp.ones((), bool)
        for subtree, epochs in frozen.items():
            if _within(path, subtree):
                free &= jnp.zeros((), bool) if epochs is None else epoch >= epochs
        return free

    return jax.tree_util.tree_map_with_path(one, params)


def _within(path: tuple[Any, ...], subtree: Subtree) -> bool:
    names = tuple(str(getattr(key, "key", key)) for key in path)
    return names[: len(subtree)] == tuple(subtree)


def _check_subtree(params: Params, subtree: Subtree) -> None:
    paths = jax.tree_util.tree_leaves_with_path(params)
    if not any(_within(path, subtree) for path, _ in paths):
        known = sorted({str(getattr(path[0], "key", path[0])) for path, _ in paths})
        raise ValueError(
            f"subtree: {'/'.join(subtree)} is not in the parameters, whose first keys "
            f"are {', '.join(known)}. Name a subtree by the keys that lead to it."
        )
