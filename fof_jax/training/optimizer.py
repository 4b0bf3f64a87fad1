"""Optimizers and learning-rate schedules, chosen by the config.

The rate is an input of the compiled step and not a part of it, so that folds of
different lengths share one program. The optimizers here give the direction of a step;
`apply` multiplies it by the rate.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.training.published_optimizers import (
    Subtree,
    adam_l2,
    add_l1,
    linear_epochs,
)
from fof_jax.types import Params

OPTIMIZERS = ("adamw", "adam_l2")
SCHEDULES = ("cosine", "linear_epochs")


def from_config(
    config: ConfigDict, untrained: tuple[Subtree, ...] = ()
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`, without the rate.

    Args:
      config: of the run.
      untrained: subtrees of the parameters that take no step and are not decayed.

    Raises:
      ValueError: an optimizer that does not exist, or a number out of its range.
    """
    options = config.optimizer
    name = options.name
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optimizer.name: got {name!r}, expected one of {', '.join(OPTIMIZERS)}. "
            "Pass another --config.optimizer.name."
        )
    numbers = {
        "beta1": options.beta1,
        "beta2": options.beta2,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    if options.frozen_epochs and name != "adam_l2":
        raise ValueError(
            f"optimizer.frozen_epochs: got {options.frozen_epochs} with {name}, which "
            "cannot freeze. Pass --config.optimizer.name=adam_l2, or 0 epochs."
        )
    if name == "adamw":
        adam = adamw(**numbers)
    else:
        adam = adam_l2(**numbers, frozen_epochs=_frozen(options))
    penalty: tuple[optax.GradientTransformation, ...] = ()
    if options.l1:  # part of the gradient that Adam sees
        penalty = (add_l1(options.l1, subtree=_subtree(options.l1_of)),)
    trained = optax.chain(
        *penalty,
        adam,
        scale_by_layer(
            layer_decay=options.layer_decay,
            freeze_blocks=options.freeze_blocks,
            head_factor=options.head_factor,
        ),
    )
    return without(trained, untrained)


def _frozen(options: ConfigDict) -> dict[Subtree, int | None]:
    if not options.frozen_epochs:
        return {}
    return {_subtree(options.frozen): options.frozen_epochs}


def _subtree(path: str) -> Subtree:
    """Keys of a subtree from a path with slashes; () for all parameters."""
    return tuple(path.split("/")) if path else ()


def without(
    optimizer: optax.GradientTransformation, untrained: tuple[Subtree, ...]
) -> optax.GradientTransformation:
    """An optimizer that leaves subtrees of the parameters as they are.

    Args:
      optimizer: of the other parameters; it keeps moments of those alone.
      untrained: see `published_optimizers`; () gives the optimizer itself.

    Source: methods/encoders.md, trap 5.
    """
    if not untrained:
        return optimizer

    def labels(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: (
                "fixed"
                if any(_key_names(path)[: len(s)] == tuple(s) for s in untrained)
                else "trained"
            ),
            params,
        )

    return optax.partition({"trained": optimizer, "fixed": optax.set_to_zero()}, labels)


def learning_rate(config: ConfigDict, step: int, *, steps_per_epoch: int) -> float:
    """Rate of optimizer step 0, 1, … of a run by `config.optimizer.schedule`.

    Raises:
      ValueError: a schedule that does not exist.
    """
    options = config.optimizer
    name = options.schedule
    if name == "cosine":
        return cosine(
            step,
            learning_rate=options.learning_rate,
            total_steps=config.epochs * steps_per_epoch,
            warmup_steps=options.warmup_epochs * steps_per_epoch,
        )
    if name == "linear_epochs":
        return linear_epochs(
            step // steps_per_epoch,
            learning_rate=options.learning_rate,
            constant_epochs=options.constant_epochs,
            decay_epochs=config.epochs - options.constant_epochs,
        )
    raise ValueError(
        f"optimizer.schedule: got {name!r}, expected one of {', '.join(SCHEDULES)}. "
        "Pass another --config.optimizer.schedule."
    )


def cosine(
    step: int, *, learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> float:
    """Half a cosine from the full rate to 0, after a linear warm-up.

    The rate rises linearly from 0 over `warmup_steps`, then falls to 0 at
    `total_steps`. Without warm-up step 0 has the full rate, as in the paper. Computed
    in double precision: optax's schedules are float32.

    Source: Sec. IV-A (1e-4, "follows a cosine decay schedule down to 0").
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def adamw(
    *, beta1: float, beta2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam's direction plus decoupled weight decay.

    Decay acts on every tensor, biases and norms too, as in PyTorch's AdamW.

    Source: Sec. IV-A (betas 0.9 and 0.999, weight decay 0.01).
    """
    return optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps),
        optax.add_decayed_weights(weight_decay),
    )


def scale_by_layer(
    *, layer_decay: float, freeze_blocks: int, head_factor: float
) -> optax.GradientTransformation:
    """Learning rates that differ by layer, as factors of the optimizer's direction.

    The last LayerNorm has the full rate, block l of L (from 0) the rate times
    layer_decay^(L - l), the embeddings times layer_decay^(L + 1). Parameters outside
    the encoder are heads.

    Args:
      layer_decay: 1 is the same rate everywhere.
      freeze_blocks: number of first blocks that stay fixed, and with them the
        embeddings: no step, no weight decay. 0 is none.
      head_factor: factor of classifier and projection heads.

    Raises:
      ValueError: a number out of its range.

    Source: Bao et al. 2022 (BEiT), Clark et al. 2020 (ELECTRA).
    """
    for name, value, fits in (
        ("layer_decay", layer_decay, 0 < layer_decay <= 1),
        ("head_factor", head_factor, head_factor > 0),
        ("freeze_blocks", freeze_blocks, freeze_blocks >= 0),
    ):
        if not fits:
            expected = {"layer_decay": "0 < … <= 1", "head_factor": "more than 0"}
            raise ValueError(
                f"optimizer.{name}: got {value}, expected "
                f"{expected.get(name, '0 or more')}. Pass --config.optimizer.{name}."
            )
    if (layer_decay, freeze_blocks, head_factor) == (1.0, 0, 1.0):
        return optax.identity()

    def scale(updates: Params, params: Params | None) -> Params:
        del params
        depth = next(
            leaf.shape[0]
            for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
            if "blocks" in _key_names(path)
        )
        exponents = jnp.arange(depth, 0, -1.0)
        of_block = jnp.where(
            jnp.arange(depth) < freeze_blocks, 0.0, layer_decay**exponents
        )
        of_embedding = 0.0 if freeze_blocks else layer_decay ** (depth + 1)

        def scale_leaf(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            names = _key_names(path)
            if "encoder" not in names:
                return update * head_factor
            if "blocks" in names:
                return update * of_block.reshape(-1, *[1] * (update.ndim - 1))
            return update if "norm" in names else update * of_embedding

        return jax.tree_util.tree_map_with_path(scale_leaf, updates)

    return optax.stateless(scale)


def apply(params: Params, direction: Params, learning_rate: Float[Array, ""]) -> Params:
    """params - learning_rate * direction."""
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)


def _key_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", key)) for key in path)
