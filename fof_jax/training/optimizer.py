"""AdamW with a cosine schedule, per optimizer step.

The rate is an input of the compiled step and not a part of it: folds of different
lengths then share one program.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fof_jax.types import Params


def cosine(
    step: int, *, learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> float:
    """Learning rate of optimizer step 0, 1, …

    Rises linearly from 0 over `warmup_steps`, then falls along half a cosine to 0 at
    `total_steps`. Without warm-up step 0 has the full rate, as in the paper.

    Source: Sec. IV-A (1e-4, "follows a cosine decay schedule down to 0").
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def adamw(
    *, beta1: float, beta2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam's direction plus decoupled weight decay, before the rate.

    Decay acts on every tensor, biases and norms too, as PyTorch's AdamW does.

    Source: Sec. IV-A (betas 0.9 and 0.999, weight decay 0.01).
    """
    return optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps),
        optax.add_decayed_weights(weight_decay),
    )


def by_layer(
    *, layer_decay: float, freeze_blocks: int, head_factor: float
) -> optax.GradientTransformation:
    """Rates that differ by layer, as factors of what AdamW proposes.

    The last LayerNorm has the full rate, block l of L (from 0) the rate times
    layer_decay^(L - l), the embeddings times layer_decay^(L + 1). What is outside the
    encoder is a head.

    Args:
      layer_decay: 1 is the same rate everywhere.
      freeze_blocks: blocks that stay as they are, from the first on, and with them the
        embeddings: no step, no weight decay. 0 is none.
      head_factor: of classifier and projection heads.

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
            if "blocks" in _names(path)
        )
        exponents = jnp.arange(depth, 0, -1.0)
        of_block = jnp.where(
            jnp.arange(depth) < freeze_blocks, 0.0, layer_decay**exponents
        )
        of_embedding = 0.0 if freeze_blocks else layer_decay ** (depth + 1)

        def one(path: tuple, update: jax.Array) -> jax.Array:
            names = _names(path)
            if "encoder" not in names:
                return update * head_factor
            if "blocks" in names:
                return update * of_block.reshape(-1, *[1] * (update.ndim - 1))
            return update if "norm" in names else update * of_embedding

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(scale)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", key)) for key in path)


def apply(params: Params, direction: Params, learning_rate: Float[Array, ""]) -> Params:
    """params - learning_rate * direction."""
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
