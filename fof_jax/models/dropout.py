"""Dropout, DropPath and AlphaDropout with the random mask in a method of its own.

A replay of recorded training steps replaces `sample_mask` and leaves the arithmetic,
so that the arithmetic is compared too.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from fof_jax.models.device_rows import keep_mask

# The value of SELU far below 0, negated: lambda * alpha of Klambauer et al. 2017.
ALPHA = 1.7580993408473766


class Dropout(nn.Module):
    """Zeroes entries with probability `rate` and divides the others by 1 - rate.

    Attributes:
      rate: probability that an entry is zeroed, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*S"], *, train: bool) -> Float[Array, "*S"]:
        """The input in evaluation, the input with dropped entries in training.

        Args:
          x: any shape.
          train: whether entries are dropped.

        Returns:
          x * mask / (1 - rate).

        Raises:
          ValueError: the rate is outside 0 <= rate < 1.

        Source: Srivastava et al. 2014.
        """
        check_rate(self.rate)
        if not train or self.rate == 0:
            return x
        keep = self.sample_mask(x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0)

    def sample_mask(self, shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """True where an entry is kept, from the random stream `dropout`."""
        return keep_mask(self.make_rng("dropout"), 1 - self.rate, shape)


class DropPath(nn.Module):
    """Stochastic depth: zeroes a residual branch of whole rows with probability `rate`.

    Attributes:
      rate: probability that a row's branch is zeroed, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B *S"], *, train: bool) -> Float[Array, "B *S"]:
        """The branch in evaluation, that of kept rows divided by 1 - rate in training.

        Args:
          x: output of the branch.
          train: whether rows are dropped.

        Raises:
          ValueError: the rate is outside 0 <= rate < 1.

        Source: Huang et al. 2016; methods/encoders.md, "The rule" (drop_path).
        """
        check_rate(self.rate)
        if not train or self.rate == 0:
            return x
        keep = self.sample_mask((x.shape[0],))
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return jnp.where(keep.reshape(shape), x / (1 - self.rate), 0)

    def sample_mask(self, shape: tuple[int, ...]) -> Bool[Array, " B"]:
        """True where a row is kept, from the random stream `dropout`."""
        return keep_mask(self.make_rng("dropout"), 1 - self.rate, shape)


class AlphaDropout(nn.Module):
    """Sets entries to -ALPHA and rescales, which keeps mean 0 and variance 1.

    Attributes:
      rate: probability that an entry is dropped, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*S"], *, train: bool) -> Float[Array, "*S"]:
        """The input in evaluation, the input with dropped entries in training.

        Args:
          x: any shape.
          train: whether entries are dropped.

        Returns:
          a (x m - ALPHA (1 - m)) + a ALPHA rate, with q = 1 - rate and
          a = (q + ALPHA^2 rate q)^(-1/2).

        Raises:
          ValueError: the rate is outside 0 <= rate < 1.

        Source: Klambauer et al. 2017; METHODS.md 5.0, methods/fusion.md "Masks".
        """
        check_rate(self.rate)
        if not train or self.rate == 0:
            return x
        keep = self.sample_mask(x.shape)
        kept = 1 - self.rate
        a = (kept + ALPHA**2 * self.rate * kept) ** -0.5
        return a * jnp.where(keep, x, -ALPHA) + a * ALPHA * self.rate

    def sample_mask(self, shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """True where an entry is kept, from the random stream `dropout`."""
        return keep_mask(self.make_rng("dropout"), 1 - self.rate, shape)


def check_rate(rate: float) -> None:
    """Checks a dropout rate.

    Raises:
      ValueError: it is outside 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(
            f"dropout rate: got {rate}, expected 0 <= rate < 1. A rate is the "
            "probability that an entry is dropped."
        )
