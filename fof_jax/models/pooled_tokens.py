"""A token encoder as an encoder of one feature per image."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float


class PooledTokens(nn.Module):
    """A token encoder as an image encoder of the fusion rows.

    Attributes:
      encoder: gives tokens, and features by its method `pool`; the ViT.
    """

    encoder: Any

    def __call__(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Image to pooled features.

        Args:
          image: normalized pixels.
          train: ignored; the encoder has no dropout.

        Returns:
          features.
        """
        del train
        return self.encoder.pool(self.encoder(image))
