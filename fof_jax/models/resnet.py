"""ResNet-18 with torchvision's layers, and PathCNN's projection behind it.

Names of the parameters are torchvision's with the block number joined by an underscore:
`layer2_0/conv1`. Padding is explicit, because XLA's "SAME" pads strided layers with one
row less on the upper side of even maps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.linear import Linear

# He et al. 2015 over the outputs, as torchvision initializes its ResNets.
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    features: int, kernel: int, stride: int, dtype: Any, name: str
) -> nn.Conv:
    """A convolution without bias, padded by half its kernel on every side."""
    padding = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=False,
        dtype=dtype,
        kernel_init=_kernel_init,
        name=name,
    )


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Maximum of 3 x 3 pixels at stride 2, padded by one pixel of -inf.

    Args:
      x: channels last.

    Returns:
      maps of ceil(H / 2) x ceil(W / 2).

    Source: methods/encoders.md, trap 3.
    """
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a residual; ReLU after the first and the sum.

    Attributes:
      features: channels of the output.
      stride: of the first convolution; the residual has a 1 x 1 convolution where
        stride or channels change.
      dtype: of the convolutions.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B h w D"]:
        """Applies the block; `train` is of the batch statistics."""
        residual = x
        y = convolution(self.features, 3, self.stride, self.dtype, "conv1")(x)
        y = jax.nn.relu(BatchNorm(name="bn1")(y, train=train))
        y = convolution(self.features, 3, 1, self.dtype, "conv2")(y)
        y = BatchNorm(name="bn2")(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            residual = convolution(
                self.features, 1, self.stride, self.dtype, "downsample_conv"
            )(x)
            residual = BatchNorm(name="downsample_bn")(residual, train=train)
        return jax.nn.relu(y + residual)


class ResNet(nn.Module):
    """ResNet of basic blocks, pooled; ResNet-18 by default.

    Attributes:
      features: width of PathCNN's projection (Linear, BatchNorm, ReLU); None gives the
        pooled map.
      blocks: number of blocks of each stage.
      width: channels of the first stage; each later one has twice as many.
      dtype: of the convolutions; statistics, pooling and projection are float32.
    """

    features: int | None = 128
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Image to one feature.

        Args:
          image: normalized pixels.
          train: whether batch statistics are used, and the running ones updated.

        Returns:
          the projection, >= 0, or the mean of the last map.

        Source: He et al. 2016; METHODS.md A2.
        """
        x = convolution(self.width, 7, 2, self.dtype, "conv1")(image)
        x = jax.nn.relu(BatchNorm(name="bn1")(x, train=train))
        x = max_pool(x)  # [B, H/4, W/4, width]
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = BasicBlock(
                    features=self.width * 2**stage,
                    stride=2 if stage and not block else 1,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train=train)
        pooled = x.astype(jnp.float32).mean(axis=(1, 2))  # [B, 8 width]
        if self.features is None:
            return pooled
        y = Linear(self.features, name="projection")(pooled)
        return jax.nn.relu(BatchNorm(name="projection_bn")(y, train=train))
