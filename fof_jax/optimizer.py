"""AdamW with a cosine schedule, per optimizer step."""

import jax.numpy as jnp
import optax


def cosine(
    *, learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """Learning rate of optimizer step t = 0, 1, …

    Rises linearly from 0 over `warmup_steps`, then falls along half a cosine to 0 at
    `total_steps`. Without warm-up step 0 has the full rate, as in the paper.

    Source: Sec. IV-A ("an initial learning rate of 1e-4 [follows] a cosine decay
    schedule down to 0").
    """

    def rate(t: int) -> jnp.ndarray:
        done = (t - warmup_steps) / max(total_steps - warmup_steps, 1)
        decay = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
        rise = jnp.minimum(t / max(warmup_steps, 1), 1.0) if warmup_steps else 1.0
        return learning_rate * rise * decay

    return rate


def adamw(
    schedule: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Decoupled weight decay on every tensor, biases and norms too, as in PyTorch.

    Source: Sec. IV-A (betas 0.9 and 0.999, weight decay 0.01).
    """
    return optax.adamw(schedule, b1=beta1, b2=beta2, eps=eps, weight_decay=weight_decay)
