"""Batch normalization with the semantics of PyTorch's BatchNorm."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from fof_jax.models.device_rows import sum_over_devices


class BatchNorm(nn.Module):
    """Normalization by batch statistics in training, by running ones in evaluation.

    Flax's own module keeps a running average of the biased variance; PyTorch normalizes
    by the biased variance and averages the unbiased one.

    Attributes:
      axis_name: of the devices over which statistics are synchronized; None for one
        device, where the rows were gathered first, or inside of `device_rows`, which
        synchronizes them without it.
      momentum: weight of the new statistics in the running ones.
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "... C"], *, train: bool
    ) -> Float[Array, "... C"]:
        """Normalizes over every axis but the last.

        Args:
          x: channels last; in training more than one value a channel.
          train: whether batch statistics are used, and the running ones updated.

        Returns:
          an array of the shape of `x`.

        Raises:
          ValueError: training with a single value a channel, whose variance is 0.

        Source: methods/encoders.md (BatchNorm).
        """
        channels, dtype = x.shape[-1], x.dtype
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            return self._normalize(x, mean.value, var.value, scale, bias).astype(dtype)
        flat = x.reshape(-1, channels)
        count = self._sum(jnp.asarray(flat.shape[0], jnp.float32))
        alone = self.axis_name is None and flat.shape[0] == 1
        if alone and not self.is_initializing():
            raise ValueError(
                "batch norm: got one value per channel in training, expected more than "
                "one. Pass a larger --config.batch_size."
            )
        batch_mean = self._sum(flat.sum(axis=0)) / count
        centered = flat - batch_mean[None]
        batch_var = self._sum((centered * centered).sum(axis=0)) / count
        if not self.is_initializing():
            unbiased = batch_var * (count / (count - 1))
            mean.value += self.momentum * (batch_mean - mean.value)
            var.value += self.momentum * (unbiased - var.value)
        return self._normalize(x, batch_mean, batch_var, scale, bias).astype(dtype)

    def _sum(self, local: Array) -> Array:
        if self.is_initializing():
            return local
        if self.axis_name is None:
            return sum_over_devices(local)
        return lax.psum(local, self.axis_name)

    def _normalize(self, x, mean, var, scale, bias):
        shape = (1,) * (x.ndim - 1) + mean.shape
        factor = scale * lax.rsqrt(var + self.epsilon)
        return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
