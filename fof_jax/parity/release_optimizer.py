"""Learning-rate schedule and optimizer of the authors' code."""

import math

import jax.numpy as jnp
import optax


def learning_rate(*, base: float, warmup: int, total: int) -> optax.Schedule:
    """Learning rate at optimizer step t, counted from 0.

    base t/w for t < w, so that the first step has rate 0 (Q34); then
    base 0.5 (1 + cos(pi (t - w) / max(1, T - w))).

    Args:
      base: peak learning rate, 1e-4.
      warmup: w, the steps of 15 epochs.
      total: T, the steps of 70 epochs, with len(train) // batch steps per epoch. After
        T the rate rises again, as in the authors' code when the loader has one more
        batch per epoch (Q39).
    """

    def schedule(step):
        warmup_rate = step / max(1, warmup)  # Q34
        phase = math.pi * (step - warmup) / max(1, total - warmup)
        decay = jnp.cos(phase / 2) ** 2  # = 0.5 (1 + cos), exact near 0; Q39
        return base * jnp.where(step < warmup, warmup_rate, decay)

    return schedule


def optimizer(
    schedule: optax.Schedule, *, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW with decay (0.01) and one rate for all tensors (Q33, Q36)."""
    # Q33: the lr_mult of 10 for the heads has no effect. Q36: no mask.
    return optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
