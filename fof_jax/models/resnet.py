"""ResNet-18 with torchvision's layers, and PathCNN's projection behind it.

Names of the parameters are torchvision's with the block number joined by an underscore:
`layer2_0/conv1`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.convolution import Convolution
from fof_jax.models.linear import Linear


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
        layer = partial(Convolution, self.features, dtype=self.dtype)
        y = layer(3, self.stride, name="conv1")(x)
        y = jax.nn.relu(BatchNorm(name="bn1")(y, train=train))
        y = layer(3, name="conv2")(y)
        y = BatchNorm(name="bn2")(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            residual = layer(1, self.stride, name="downsample_conv")(x)
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
        x = Convolution(self.width, 7, 2, dtype=self.dtype, name="conv1")(image)
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
