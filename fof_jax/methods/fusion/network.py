"""Image encoder, omics network and fusion module as one Flax module."""

from typing import NamedTuple

import jax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.linear import Linear


class NetworkOutput(NamedTuple):
    """Output of the fusion, and logits of the single-modality classifiers or None."""

    fused: FusionOutput
    image_features: Float[Array, "B D"]
    omics_features: Float[Array, "B M"]
    image_logits: Float[Array, "B K"] | None
    omics_logits: Float[Array, "B K"] | None


class ImageProjection(nn.Module):
    """Linear, optional BatchNorm and ReLU: an image feature of the fusion's width.

    Attributes:
      features: width.
      batch_norm: whether the projection is normalized.
      rectify: whether ReLU is applied.
    """

    features: int
    batch_norm: bool = False
    rectify: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B C"], *, train: bool) -> Float[Array, "B D"]:
        """Projects features of any encoder.

        Args:
          x: features.
          train: whether batch statistics are used.

        Returns:
          features of the fusion's width.

        Source: METHODS.md 5.0 (adapter rule).
        """
        x = Linear(self.features, name="linear")(x)
        if self.batch_norm:
            x = BatchNorm(name="norm")(x, train=train)
        return jax.nn.relu(x) if self.rectify else x


class Network(nn.Module):
    """Everything that a fusion row trains.

    `encode` runs on a device's own rows; `fuse` on the rows of all devices, so that
    its batch statistics, dropout masks and losses are those of the global batch.

    Attributes:
      image_encoder: called as `image_encoder(image, train=...)`, gives [B, C].
      fusion: see `fusion_output`.
      omics_network: gives `OmicsOutput`; None passes the vector to the fusion.
      projection: of the image features; None passes them to the fusion.
      image_classes: K of a classifier on the image features; None builds none.
      cut_gradient: whether the fusion's gradient stops at the two features.
    """

    image_encoder: nn.Module
    fusion: nn.Module
    omics_network: nn.Module | None = None
    projection: nn.Module | None = None
    image_classes: int | None = None
    cut_gradient: bool = False

    def setup(self) -> None:
        """Declares the classifier of the image branch."""
        if self.image_classes is not None:
            self.image_classifier = Linear(self.image_classes)

    def encode(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B C2"]:
        """Features of the image encoder.

        Args:
          image: normalized pixels.
          train: handed to the encoder.

        Returns:
          features before the projection.
        """
        return self.image_encoder(image, train=train)

    def fuse(
        self,
        image: Float[Array, "B C2"],
        omics: Float[Array, "B M2"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> NetworkOutput:
        """Features of the encoder and omics to logits.

        Args:
          image: output of `encode`, of all devices in training.
          omics: standardized vectors, 0 where unknown.
          train: whether dropout is active and batch statistics are used.
          known: whether a row has an image and omics.

        Returns:
          fused features and logits; logits of the branches.

        Source: METHODS.md 5.0, 5.7 (stage 1 without its moving average).
        """
        if self.projection is not None:
            image = self.projection(image, train=train)
        image_logits = omics_logits = None
        if self.image_classes is not None:
            image_logits = self.image_classifier(image)
        if self.omics_network is not None:
            omics, omics_logits = self.omics_network(omics, train=train)
        inputs = (image, omics)
        if self.cut_gradient:
            inputs = lax.stop_gradient(inputs)
        fused = self.fusion(*inputs, train=train, known=known)
        return NetworkOutput(fused, image, omics, image_logits, omics_logits)

    def __call__(
        self, image: Float[Array, "B H W C"], omics: Float[Array, "B M2"]
    ) -> NetworkOutput:
        """Both in evaluation; initializes every parameter."""
        return self.fuse(self.encode(image, train=False), omics, train=False)
