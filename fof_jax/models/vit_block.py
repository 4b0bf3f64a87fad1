"""A pre-LN block of the Vision Transformer: attention and a two-layer perceptron."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.models import attention


def apply_to_rows(
    layer: Callable[[Float[Array, "R D"]], Float[Array, "R E"]],
    x: Float[Array, "B T D"],
) -> Float[Array, "B T E"]:
    """Applies a dense layer to the tokens of all images as rows of one matrix.

    The result is the same. The gradient of the weight becomes a sum over one axis,
    which XLA computes on CPU as a matrix product; over two axes it takes five times as
    long (docs/performance.md).
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


# As in Dosovitskiy et al. 2021; a fixed std of 0.02 is too small for narrow encoders.
KERNEL_INIT = nn.initializers.xavier_uniform()


class Block(nn.Module):
    """Transformer block: pre-LN attention and MLP (exact GELU or SwiGLU), residual."""

    heads: int
    mlp: int
    layer_norm_eps: float
    compute_dtype: Any
    implementation: str
    layer_scale: bool = False
    swiglu: bool = False
    # q, k, v [B, heads, T, d] to o, in place of `attention.attention`: explainers that
    # read the attention weights.
    attend: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B P D"], segments: attention.Segments = None
    ) -> Float[Array, "B P D"]:
        """Applies the block to the residual stream."""
        batch, length, width = x.shape
        head_width = width // self.heads

        y = self._norm("norm_attention")(x)
        qkv = self._dense(y, 3 * width, "qkv")
        qkv = qkv.reshape(batch, length, 3, self.heads, head_width)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, P, d]
        attend = self.attend or functools.partial(
            attention.attention, segments=segments, implementation=self.implementation
        )
        o = attend(q, k, v)
        o = o.swapaxes(1, 2).reshape(batch, length, width)
        x = x + self._scaled(self._dense(o, width, "out"), "scale_attention")

        y = self._norm("norm_mlp")(x)
        y = self._dense(self._hidden(y), width, "mlp_out")
        return x + self._scaled(y, "scale_mlp")

    def _hidden(self, y: Float[Array, "B P D"]) -> Float[Array, "B P M"]:
        if not self.swiglu:
            return nn.gelu(self._dense(y, self.mlp, "mlp_in"), approximate=False)
        gate, value = jnp.split(self._dense(y, 2 * self.mlp, "mlp_in"), 2, axis=-1)
        return nn.silu(gate) * value

    def _scaled(self, y: Float[Array, "B P D"], name: str) -> Float[Array, "B P D"]:
        """LayerScale (Touvron et al. 2021, CaiT), if the variant has it."""
        if not self.layer_scale:
            return y
        scale = self.param(name, nn.initializers.ones, y.shape[-1:], jnp.float32)
        return y * scale.astype(y.dtype)[None, None]

    def _norm(self, name: str) -> nn.LayerNorm:
        # use_fast_variance subtracts two large numbers and loses 1e-6 of accuracy.
        return nn.LayerNorm(
            epsilon=self.layer_norm_eps,
            dtype=self.compute_dtype,
            use_fast_variance=False,
            name=name,
        )

    def _dense(self, x: jax.Array, features: int, name: str) -> jax.Array:
        layer = nn.Dense(
            features, dtype=self.compute_dtype, kernel_init=KERNEL_INIT, name=name
        )
        return apply_to_rows(layer, x)
