"""Linear and bilinear layers with the initializations of the comparison methods."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

SCHEMES = ("uniform", "normal", "he")


class Linear(nn.Module):
    """x W + b.

    Attributes:
      features: width of the output.
      scheme: "uniform" draws weights and bias from U(±1/sqrt(fan_in)), PyTorch's
        default; "normal" draws weights from N(0, 1/fan_in), the `max` scheme of
        Pathomic Fusion; "he" from the truncated N(0, 2/fan_in).
      bias: initial value of the bias in "normal" and "he".
    """

    features: int
    scheme: str = "uniform"
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Applies the layer to the last axis.

        Args:
          x: inputs.

        Returns:
          outputs, the last axis replaced by `features`.

        Raises:
          ValueError: the scheme is unknown.

        Source: METHODS.md 5.0; methods/fusion_corrections.md 4.
        """
        if self.scheme not in SCHEMES:
            raise ValueError(
                f"scheme: got {self.scheme!r}, expected one of {', '.join(SCHEMES)}."
            )
        fan_in = x.shape[-1]
        if self.scheme == "uniform":
            kernel_init = bias_init = symmetric_uniform(1 / math.sqrt(fan_in))
        else:
            bias_init = nn.initializers.constant(self.bias)
            kernel_init = (
                nn.initializers.variance_scaling(1.0, "fan_in", "normal")
                if self.scheme == "normal"
                else nn.initializers.he_normal()
            )
        kernel = self.param("kernel", kernel_init, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        return jnp.dot(x, kernel) + bias[(None,) * (x.ndim - 1)]


class Bilinear(nn.Module):
    """z_o = sum_ij a_i W[i, j, o] b_j + c_o, initialized from U(±1/sqrt(I)).

    Attributes:
      features: width of the output.
    """

    features: int

    @nn.compact
    def __call__(
        self, a: Float[Array, "B I"], b: Float[Array, "B J"]
    ) -> Float[Array, "B O"]:
        """Applies the form.

        Args:
          a, b: the two inputs; I is the fan-in of weights and bias.

        Returns:
          z [B, features].

        Source: METHODS.md 5.0 (T_i); methods/fusion_corrections.md 4.
        """
        init = symmetric_uniform(1 / math.sqrt(a.shape[-1]))
        shape = (a.shape[-1], b.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        # In two contractions: one over all I J pairs accumulates more rounding.
        partial = jnp.tensordot(a, kernel, axes=1)  # [B, J, O]
        return jnp.einsum("bjo,bj->bo", partial, b) + bias[None]


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
    """An initializer that draws from U(-bound, bound)."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
