"""MaxNet, the multilayer perceptron for omics vectors of Pathomic Fusion."""

from typing import NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.models.dropout import AlphaDropout
from fof_jax.models.linear import Linear


class OmicsOutput(NamedTuple):
    """Features of an omics vector, and logits where the network has a classifier."""

    features: Float[Array, "B D"]
    logits: Float[Array, "B K"] | None


class MaxNet(nn.Module):
    """Self-normalizing perceptron: Linear, ELU, AlphaDropout four times, classifier.

    Attributes:
      features: D, width of the last hidden layer.
      num_classes: K; None builds no classifier.
      rate: of AlphaDropout.
      rectify: whether ReLU is applied to the features, as the DGKD code does.
      widths: of the layers before the last.
    """

    features: int = 32
    num_classes: int | None = 3
    rate: float = 0.25
    rectify: bool = False
    widths: tuple[int, ...] = (64, 48, 32)

    @nn.compact
    def __call__(self, omics: Float[Array, "B M"], *, train: bool) -> OmicsOutput:
        """Encodes standardized omics vectors.

        Args:
          omics: 0 where an entry is unknown.
          train: whether AlphaDropout is active.

        Returns:
          features and logits.

        Source: METHODS.md 5.0 (Omic MLP); methods/fusion.md "maxnet".
        """
        x = omics
        for i, width in enumerate((*self.widths, self.features)):
            x = jax.nn.elu(Linear(width, "normal", name=f"hidden_{i}")(x))
            x = AlphaDropout(self.rate, name=f"dropout_{i}")(x, train=train)
        if self.rectify:
            x = jax.nn.relu(x)
        if self.num_classes is None:
            return OmicsOutput(x, None)
        logits = Linear(self.num_classes, "normal", name="classifier")(x)
        return OmicsOutput(x, logits)
