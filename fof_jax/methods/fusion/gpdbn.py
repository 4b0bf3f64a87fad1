"""GPDBN: bilinear features between and within the modalities."""

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
from fof_jax.models.omics import MaxNet
from fof_jax.types import DatasetInfo


class GPDBNFusion(nn.Module):
    """Outer products, each compressed, beside both features; a perceptron follows.

    Attributes:
      num_classes: K.
      rate: of the dropout after each hidden layer; the published training has 0.1.
      bilinear_features: width of each compressed product.
      widths: of the hidden layers.
    """

    num_classes: int = 3
    rate: float = 0.1
    bilinear_features: int = 20
    widths: tuple[int, ...] = (500, 256, 128, 32)

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B D"],
        omics: Float[Array, "B M"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> FusionOutput:
        """Fuses the two features.

        With g, p the omics and the image feature, the input of the perceptron is
        [g, p, ReLU(W_gp g x p), ReLU(W_gg g x g), ReLU(W_pp p x p)].

        Returns:
          the last hidden layer and its logits.

        Source: METHODS.md C3; methods/fusion.md "gpdbn"; corrections 10, 11.
        """
        del known
        inter = self._bilinear("inter", omics, image)
        intra_omics = self._bilinear("intra_omics", omics, omics)
        intra_image = self._bilinear("intra_image", image, image)
        x = jnp.concatenate([omics, image, inter, intra_omics, intra_image], axis=1)
        for i, width in enumerate(self.widths):
            x = jax.nn.relu(Linear(width, name=f"hidden_{i}")(x))
            x = Dropout(self.rate, name=f"dropout_{i}")(x, train=train)
        return FusionOutput(x, Linear(self.num_classes, name="classifier")(x), {})

    def _bilinear(self, name: str, a: jax.Array, b: jax.Array) -> Float[Array, "B E"]:
        outer = (a[:, :, None] * b[:, None, :]).reshape(a.shape[0], -1)  # row-major
        return jax.nn.relu(Linear(self.bilinear_features, name=name)(outer))


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration; both features have the same width.

    Args:
      config: `fusion.image_features`, `fusion.dropout` and `omics.dropout` are read.
      info: `classes` is read.

    Source: METHODS.md C3.
    """
    classes = len(info.classes)
    width = config.fusion.image_features
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=GPDBNFusion(classes, config.fusion.dropout),
        omics_network=MaxNet(width, None, config.omics.dropout),
        projection=ImageProjection(width),
    )
    return Multimodal("fusion.gpdbn", network, classes)
