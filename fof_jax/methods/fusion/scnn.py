"""SCNN: image feature and omics vector joined before three fully connected layers."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.methods.fusion.multimodal import Multimodal
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.models.dropout import Dropout
from fof_jax.models.linear import Linear
from fof_jax.types import DatasetInfo, Params


class SCNNFusion(nn.Module):
    """[image; omics] -> 1000 -> 1000 -> 256, ReLU each, dropout, classifier.

    The network follows the authors' description; no official model file was available.

    Attributes:
      num_classes: K.
      rate: of the dropout before the classifier.
      widths: of the hidden layers.
      decay: weight of the L2 penalty on the hidden kernels.
    """

    num_classes: int = 3
    rate: float = 0.05
    widths: tuple[int, ...] = (1000, 1000, 256)
    decay: float = 4e-4

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B D"],
        omics: Float[Array, "B M"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> FusionOutput:
        """Fuses the two.

        Returns:
          the last hidden layer (before dropout), its logits, and the penalty `l2`.

        Source: METHODS.md C1; methods/fusion.md "scnn"; corrections 16.
        """
        del known
        x = jnp.concatenate([image, omics], axis=1)
        for i, width in enumerate(self.widths):
            x = jax.nn.relu(Linear(width, "he", 0.1, name=f"hidden_{i}")(x))
        dropped = Dropout(self.rate, name="dropout")(x, train=train)
        logits = Linear(self.num_classes, "he", name="classifier")(dropped)
        l2 = kernel_decay(params=self.variables["params"], weight=self.decay)
        return FusionOutput(x, logits, {"l2": l2}, l2)


def kernel_decay(*, params: Params, weight: float) -> Float[Array, ""]:
    """weight / 2 times the sum of squares of the hidden kernels.

    Args:
      params: of an `SCNNFusion`.
      weight: 4e-4 as published.

    Returns:
      the penalty; biases and the classifier are left out.

    Source: methods/fusion.md "scnn" (l2).
    """
    squares = [
        jnp.sum(layer["kernel"] ** 2)
        for name, layer in params.items()
        if name.startswith("hidden_")
    ]
    return weight / 2 * jnp.sum(jnp.stack(squares))


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration.

    Args:
      config: `fusion.image_features` and `fusion.dropout` are read.
      info: `classes` is read.

    Source: METHODS.md C1.
    """
    classes = len(info.classes)
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=SCNNFusion(classes, config.fusion.dropout),
        projection=ImageProjection(config.fusion.image_features),
    )
    return Multimodal("fusion.scnn", network, classes)
