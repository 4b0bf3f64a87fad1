"""ABMIL: gated attention over the patches of a bag (Ilse et al. 2018)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods.bag_classifier import BagClassifier
from fof_jax.types import Bag, DatasetInfo, Output


def gated_attention(
    h: Float[Array, "B T W"],
    valid: Bool[Array, "B T"],
    *,
    V: Float[Array, "W L"],
    U: Float[Array, "W L"],
    w: Float[Array, " L"],
) -> Float[Array, "B T"]:
    r"""Weights of the patches of a bag.

    .. math::
       a_t = \mathrm{softmax}_t \left( w^T (\tanh(V h_t) \odot \sigma(U h_t)) \right)

    Args:
      h: embedded patches.
      valid: patches among which the weights sum to 1; the others have 0.
      V, U, w: parameters.

    Source: Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning
    (ICML 2018), Eq. (9).
    """
    gated = jnp.tanh(h @ V) * jax.nn.sigmoid(h @ U)  # [B, T, L]
    return jax.nn.softmax(jnp.where(valid, gated @ w, -jnp.inf), axis=1)


class GatedAttention(nn.Module):
    """Embedding, gated attention, and a linear classifier of the weighted mean.

    D W + W + 2 W L + L + W K + K parameters; Eq. (9) has no biases.

    Attributes:
      num_classes: K.
      width: W, of the embedding.
      attention: L, width of the attention.
    """

    num_classes: int
    width: int
    attention: int

    def setup(self) -> None:
        """Declares the layers."""
        self.embedding = nn.Dense(self.width)
        init = nn.initializers.xavier_uniform()
        shape = (self.width, self.attention)
        self.V = self.param("V", init, shape, jnp.float32)
        self.U = self.param("U", init, shape, jnp.float32)
        self.w = self.param("w", init, (self.attention, 1), jnp.float32)
        self.classifier = nn.Dense(self.num_classes)

    def weights(self, bag: Bag) -> tuple[Float[Array, "B T W"], Float[Array, "B T"]]:
        """Embedded patches and their weights."""
        h = jax.nn.relu(self.embedding(jnp.asarray(bag.features)))
        valid = jnp.asarray(bag.valid)
        return h, gated_attention(h, valid, V=self.V, U=self.U, w=self.w[:, 0])

    def __call__(self, bag: Bag) -> Output:
        """Weighted mean of the embedded patches, and its logits."""
        h, a = self.weights(bag)
        z = jnp.einsum("bt,btw->bw", a, h)
        return Output(features=z, logits=self.classifier(z))

    def evidence(self, bag: Bag, target: Int[Array, " B"]) -> Float[Array, "B T"]:
        """The weights, which do not depend on the class."""
        del target
        return self.weights(bag)[1]


def build(config: ConfigDict, info: DatasetInfo) -> BagClassifier:
    """The row of a configuration.

    Args:
      config: `bags.width` and `bags.attention`.

    Raises:
      ValueError: a width below 1.
    """
    for name in ("width", "attention"):
        if config.bags[name] < 1:
            raise ValueError(
                f"bags.{name}: got {config.bags[name]}, expected 1 or more. Pass "
                f"another --config.bags.{name}."
            )
    network = GatedAttention(
        num_classes=len(info.classes),
        width=config.bags.width,
        attention=config.bags.attention,
    )
    return BagClassifier(network=network, num_classes=len(info.classes))
