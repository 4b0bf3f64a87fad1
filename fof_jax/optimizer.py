"""AdamW with a cosine schedule, per optimizer step.

The rate is an input of the compiled step and not a part of it: folds of different
lengths then share one program.
"""

import math

import jax
import optax
from jaxtyping import Array, Float

from fof_jax.shapes import Params


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


def apply(params: Params, direction: Params, learning_rate: Float[Array, ""]) -> Params:
    """params - learning_rate * direction."""
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
