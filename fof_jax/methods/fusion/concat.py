"""Concatenation: one linear classifier on both features, the baseline of fusion."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.models.linear import Linear


class ConcatFusion(nn.Module):
    """[image; omics] and a linear classifier.

    Attributes:
      num_classes: K.
    """

    num_classes: int = 3

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B D"],
        omics: Float[Array, "B M"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> FusionOutput:
        """Joins the two features.

        Args:
          image, omics: features of the two encoders.
          train, known: ignored.

        Returns:
          the joined features and their logits.

        Source: METHODS.md C1; methods/fusion.md "scnn" (concat); corrections 17.
        """
        del train, known
        x = jnp.concatenate([image, omics], axis=1)
        return FusionOutput(x, Linear(self.num_classes, name="classifier")(x), {})
