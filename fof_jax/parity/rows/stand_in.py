"""Image encoders of the recordings, in place of a pretrained network."""

import jax
from flax import linen as nn


class StandIn(nn.Module):
    """The image encoder of the recordings: one matrix on the image's C, H, W order."""

    features: int = 16

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Features of an NHWC image; `train` is ignored."""
        del train
        x = image.transpose(0, 3, 1, 2).reshape(image.shape[0], -1)
        return nn.Dense(self.features, use_bias=False, name="trunk")(x)


class Given(nn.Module):
    """An image encoder for recordings that give the feature."""

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """The channels of an image of one pixel."""
        del train
        return image[:, 0, 0]
