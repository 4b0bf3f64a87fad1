"""Convolution of ResNet and VGG, also of maps that are smaller than its kernel."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

# He et al. 2015 over the outputs, as torchvision initializes ResNets and VGGs.
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Convolution(nn.Module):
    """A square convolution, padded by half its kernel on every side.

    Padding is explicit, because XLA's "SAME" pads strided layers with one row less on
    the upper side of even maps.

    Attributes:
      features: channels of the output.
      side: of the kernel, odd.
      stride: along both axes.
      use_bias: whether a bias is added.
      dtype: of the products and the output; parameters are float32.
    """

    features: int
    side: int
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Applies the layer.

        Args:
          x: channels last.

        Returns:
          maps of ceil(H / stride) x ceil(W / stride).
        """
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", _kernel_init, shape, jnp.float32)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = self.param("bias", zeros, (self.features,), jnp.float32)
            y += bias.astype(self.dtype)[None, None, None]
        return y


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C D"], stride: int
) -> Float[Array, "B h w D"]:
    """Convolution with zeros around the map, by half the kernel.

    XLA takes up to 65 times as long on the CPU where the map before or after is smaller
    than the kernel (docs/performance.md). There the neighborhoods of all places are
    multiplied with the kernel as one matrix: the same sums in another order.

    Args:
      x: channels last.
      kernel: rows, columns, channels of input and output.
      stride: along both axes.
    """
    side = kernel.shape[0]
    pads = (side // 2, side // 2)
    height, width = (-(-length // stride) for length in x.shape[1:3])
    if min(height, width) >= side:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            (pads, pads),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    padded = jnp.pad(x, ((0, 0), pads, pads, (0, 0)))
    rows, columns = (
        [slice(at, at + stride * (count - 1) + 1, stride) for at in range(side)]
        for count in (height, width)
    )
    neighbors = [padded[:, row, column] for row in rows for column in columns]
    matrix = kernel.reshape(-1, kernel.shape[-1])  # [K K C, D]
    return jnp.concatenate(neighbors, axis=-1) @ matrix
