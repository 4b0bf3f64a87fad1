"""Layers of CLAT's networks and their initial values: dense, BatchNorm, dropout."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tree = Any  # nested dict of arrays

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1
ALPHA = -1.7580993408473766  # the value of SELU at minus infinity


def batch_norm(
    x: Float[Array, "B D"],
    params: Tree,
    statistics: Tree,
    *,
    train: bool,
) -> tuple[Float[Array, "B D"], Tree]:
    """BatchNorm over the rows; the running variance is moved to the unbiased one.

    Args:
      x: rows of the whole batch.
      params: `scale` and `bias`.
      statistics: running `mean` and `var`.
      train: normalize by the batch and move the statistics by a tenth.

    Raises:
      ValueError: one row in training, which has no variance.

    Source: methods/distillation.md, BatchNorm.
    """
    mean, var = statistics["mean"], statistics["var"]
    if train:
        rows = x.shape[0]
        if rows < 2:
            raise ValueError(
                "BatchNorm: 1 row in training, expected 2 or more. Raise "
                "--config.batch_size."
            )
        mean, var = x.mean(0), x.var(0)
        statistics = jax.tree.map(
            lambda old, new: (
                (1 - BATCH_NORM_MOMENTUM) * old + BATCH_NORM_MOMENTUM * new
            ),
            statistics,
            jax.lax.stop_gradient({"mean": mean, "var": var * (rows / (rows - 1))}),
        )
    y = (x - mean[None]) / jnp.sqrt(var[None] + BATCH_NORM_EPS)
    return y * params["scale"][None] + params["bias"][None], statistics


def dense(x: Float[Array, "B F"], layer: Tree) -> Float[Array, "B D"]:
    """x W + b."""
    return x @ layer["kernel"] + layer["bias"][None]


def dropout(
    x: Float[Array, "B D"], rate: float, key: jax.Array | None
) -> Float[Array, "B D"]:
    """Zeroes entries and keeps the mean; the identity without a key."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def alpha_dropout(
    x: Float[Array, "B D"], rate: float, key: jax.Array | None
) -> Float[Array, "B D"]:
    """Sets entries to SELU's lower limit and keeps mean 0 and variance 1.

    Source: METHODS.md 5.0.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    a = ((1 - rate) * (1 + ALPHA**2 * rate)) ** -0.5
    return a * jnp.where(keep, x, ALPHA) - a * rate * ALPHA


def uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Values uniform within 1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def init_linear(key: jax.Array, fan_in: int, out: int) -> Tree:
    """Kernel and bias uniform within 1/sqrt(fan_in), torch's default."""
    kernel, bias = jax.random.split(key)
    return {
        "kernel": uniform(kernel, (fan_in, out), fan_in),
        "bias": uniform(bias, (out,), fan_in),
    }


def init_normal_linear(key: jax.Array, fan_in: int, out: int) -> Tree:
    """Kernel normal with variance 1/fan_in, bias 0."""
    kernel = jax.random.normal(key, (fan_in, out)) / math.sqrt(fan_in)
    return {"kernel": kernel, "bias": jnp.zeros(out)}


def init_norm(width: int) -> tuple[Tree, Tree]:
    """Parameters and running statistics of BatchNorm."""
    scale, zeros = jnp.ones(width), jnp.zeros(width)
    return {"scale": scale, "bias": zeros}, {"mean": zeros, "var": scale}
