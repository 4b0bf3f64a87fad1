"""Beside the gradient: rate, optimizer, and the average of the projection heads."""

import math

import jax.numpy as jnp
import optax


def learning_rate(*, base: float, warmup: int, total: int) -> optax.Schedule:
    """The authors' schedule by optimizer step t, from 0.

    base t/w for t < w, so that the first step has rate 0 (Q34); then
    base 0.5 (1 + cos(pi (t - w) / max(1, T - w))).

    Args:
      base: largest rate, 1e-4.
      warmup: w, 15 epochs of steps.
      total: T, 70 epochs of steps, with len(train) // batch steps an epoch. Past it the
        rate rises again, as theirs does when the loader has a batch more (Q39).
    """

    def schedule(step):
        rising = step / max(1, warmup)  # Q34
        phase = math.pi * (step - warmup) / max(1, total - warmup)
        falling = jnp.cos(phase / 2) ** 2  # = 0.5 (1 + cos), exact near 0; Q39
        return base * jnp.where(step < warmup, rising, falling)

    return schedule


def optimizer(
    schedule: optax.Schedule, *, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW as theirs: decay (0.01) on every tensor, one rate for all (Q33, Q36)."""
    # Q33: their lr_mult of 10 for the heads is ignored. Q36: no mask.
    return optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
