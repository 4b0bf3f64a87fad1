"""VGG19 with batch normalization and Pathomic Fusion's head: PathCNN's VGG form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.convolution import Convolution
from fof_jax.models.dropout import Dropout
from fof_jax.models.linear import Linear

# Widths of the convolutions of VGG19 (Simonyan and Zisserman 2015, E); 0 is a max pool.
VGG19 = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0)
POOLED = 7  # side of the map that the head reads
HIDDEN = 1024
RATES = (0.25, 0.25, 0.05)  # of the head's three dropouts


def check_image_size(size: tuple[int, int], widths: tuple[int, ...]) -> None:
    """Checks that the max pools leave a map.

    Raises:
      ValueError: the image is too small.
    """
    least = 2 ** widths.count(0)
    if min(size) < least:
        raise ValueError(
            f"image_size: VGG19-BN got {size[0]} x {size[1]} pixels, expected {least} "
            "or more. Pass a larger --config.data.image_size."
        )


def pooling_matrix(size: int, to: int) -> Float[np.ndarray, "to size"]:
    """Weights of adaptive average pooling along one axis.

    Window i averages floor(i size / to) … ceil((i + 1) size / to) - 1: windows overlap
    where `to` does not divide `size`, and repeat values where it is larger.

    Args:
      size, to: length before and after.

    Source: methods/encoders.md, trap 8.
    """
    i = np.arange(to)
    first, end = i * size // to, -((i + 1) * size // -to)
    position = np.arange(size)
    inside = (first[:, None] <= position) & (position < end[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def adaptive_average_pool(
    x: Float[Array, "B H W C"], to: int = POOLED
) -> Float[Array, "B to2 to2 C"]:
    """Average pooling to `to` x `to` maps, of any size.

    Args:
      x: channels last.
      to: side of the result.

    Source: methods/encoders.md, trap 8.
    """
    rows, columns = (pooling_matrix(size, to) for size in x.shape[1:3])
    return jnp.einsum(
        "ih,jw,bhwc->bijc", rows, columns, x, precision=lax.Precision.HIGHEST
    )


class Trunk(nn.Module):
    """3 x 3 convolutions with bias, BatchNorm and ReLU, and 2 x 2 max pools.

    Attributes:
      widths: of the convolutions; 0 is a max pool, whose odd last row is dropped.
      dtype: of the convolutions.
    """

    widths: tuple[int, ...] = VGG19
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B h w D"]:
        """Image to the last map; `train` is of the batch statistics."""
        x, number = image, 0
        for width in self.widths:
            if not width:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
                continue
            name = f"conv{number}"
            x = Convolution(width, 3, use_bias=True, dtype=self.dtype, name=name)(x)
            x = jax.nn.relu(BatchNorm(name=f"bn{number}")(x, train=train))
            number += 1
        return x


class Head(nn.Module):
    """Three linear layers with ReLU and dropout.

    Attributes:
      features: width of the last layer.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B C"], *, train: bool) -> Float[Array, "B D"]:
        """Flattened map to the feature, after the last dropout."""
        widths = (HIDDEN, HIDDEN, self.features)
        for i, (width, rate) in enumerate(zip(widths, RATES, strict=True)):
            x = jax.nn.relu(Linear(width, name=f"linear{i}")(x))
            x = Dropout(rate, name=f"dropout{i}")(x, train=train)
        return x


class VGG(nn.Module):
    """VGG19-BN as published for grading: a frozen trunk and a trained head.

    The trunk is not trained, but its BatchNorm is in training mode while the head
    trains: it normalizes by batch statistics and updates the running ones.

    Attributes:
      features: width of the feature.
      widths: of the trunk.
      freeze: whether the trunk's parameters are constants, see `untrained`.
      dtype: of the convolutions; statistics and head are float32.
    """

    features: int = 32
    widths: tuple[int, ...] = VGG19
    freeze: bool = True
    dtype: Any = jnp.float32

    @property
    def untrained(self) -> tuple[tuple[str, ...], ...]:
        """Subtrees of the parameters that the optimizer leaves as they are."""
        return (("trunk",),) if self.freeze else ()

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Image to one feature.

        Args:
          image: normalized pixels.
          train: whether dropout is active and batch statistics are used.

        Returns:
          the feature after the last dropout, >= 0.

        Raises:
          ValueError: the image is smaller than the trunk's max pools allow.

        Source: METHODS.md A2 (pathcnn_vgg); methods/encoders.md, traps 5, 7, 8.
        """
        _, height, breadth, _ = image.shape
        check_image_size((height, breadth), self.widths)
        x = Trunk(self.widths, self.dtype, name="trunk")(image, train=train)
        x = lax.stop_gradient(x) if self.freeze else x
        x = adaptive_average_pool(x.astype(jnp.float32))  # [B, 7, 7, C]
        # Channels first, so that published weights fit as they are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return Head(self.features, name="head")(x, train=train)
