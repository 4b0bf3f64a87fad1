"""Concatenation: one linear classifier on both features, the baseline of fusion."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.methods.fusion.multimodal import Multimodal
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.models.linear import Linear
from fof_jax.models.omics import MaxNet
from fof_jax.types import DatasetInfo


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

        Returns:
          the joined features and their logits.

        Source: METHODS.md C1; methods/fusion.md "scnn" (concat); corrections 17.
        """
        del train, known
        x = jnp.concatenate([image, omics], axis=1)
        return FusionOutput(x, Linear(self.num_classes, name="classifier")(x), {})


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration: three classifiers, cross-entropy of each.

    Args:
      config: `fusion.image_features`, `fusion.cut_gradient` and `omics.dropout` are
        read.
      info: `classes` is read.

    Source: methods/fusion.md "scnn" (concat); corrections 17.
    """
    classes = len(info.classes)
    width = config.fusion.image_features
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=ConcatFusion(classes),
        omics_network=MaxNet(width, classes, config.omics.dropout, rectify=True),
        projection=ImageProjection(width, batch_norm=True),
        image_classes=classes,
        cut_gradient=config.fusion.cut_gradient,
    )
    return Multimodal("fusion.concat", network, classes, branch_losses=True)
