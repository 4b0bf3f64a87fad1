"""FOAA: eight cross-attentions, one for each arithmetic operation and direction."""

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
from fof_jax.types import DatasetInfo

OPERATIONS = ("sum", "product", "difference", "quotient")
LAYER_NORM_EPS = 1e-5


def layer_norm(name: str) -> nn.LayerNorm:
    """LayerNorm with eps 1e-5 and the variance computed from centered values."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, use_fast_variance=False, name=name)


class OmicsEncoder(nn.Module):
    """Linear, ReLU, LayerNorm for each width, dropout before the last.

    Attributes:
      widths: of the layers.
      rate: of the dropout.
    """

    widths: tuple[int, ...] = (64, 64, 64)
    rate: float = 0.01

    @nn.compact
    def __call__(self, x: Float[Array, "B M"], *, train: bool) -> Float[Array, "B D"]:
        """Encodes standardized omics vectors.

        Args:
          x: vectors.
          train: whether dropout is active.

        Returns:
          features.

        Source: METHODS.md C6; methods/fusion.md "foaa".
        """
        for i, width in enumerate(self.widths):
            if i == len(self.widths) - 1:
                x = Dropout(self.rate, name="dropout")(x, train=train)
            x = jax.nn.relu(Linear(width, name=f"hidden_{i}")(x))
            x = layer_norm(f"norm_{i}")(x)
        return x


class ArithmeticAttention(nn.Module):
    """Cross-attention over the entries of two features, with scalar projections.

    As published, `quotient` divides by keys that a softmax over one entry has set to 1:
    the attention is then a mean. `over_entries` takes that softmax over the D entries.

    Attributes:
      operation: of `OPERATIONS`, applied to query and key.
      rate: of the dropout on the output.
      over_entries: see above; differs from the published code.
    """

    operation: str
    rate: float = 0.01
    over_entries: bool = False

    @nn.compact
    def __call__(
        self, query: Float[Array, "B D"], context: Float[Array, "B D"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Attends from `query` to `context`.

        S_ij = Q_i o K_j, P = softmax_j S, O_i = sum_j P_ij V_j, output w O + b.

        Args:
          query, context: features; each entry is a token of width 1.
          train: whether dropout is active.

        Returns:
          the attended feature.

        Raises:
          ValueError: the operation is unknown.

        Source: METHODS.md C6; methods/fusion_corrections.md 15.
        """
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"operation: got {self.operation!r}, expected one of "
                f"{', '.join(OPERATIONS)}."
            )
        q = Linear(1, name="query")(query[:, :, None])  # [B, D, 1]
        k = Linear(1, name="key")(context[:, :, None])[:, :, 0]
        v = Linear(1, name="value")(context[:, :, None])  # [B, D, 1]
        scores = self._scores(q, k[:, None, :])  # [B, D, D]
        attended = jax.nn.softmax(scores, axis=2) @ v
        out = Linear(1, name="out")(attended)
        return Dropout(self.rate, name="dropout")(out, train=train)[:, :, 0]

    def _scores(
        self, q: Float[Array, "B D 1"], k: Float[Array, "B 1 D"]
    ) -> Float[Array, "B D D"]:
        if self.operation == "sum":
            return q + k
        if self.operation == "product":
            return q * k
        if self.operation == "difference":
            return q - k
        masked = jnp.where(k > 0, k, k - 9999.0)
        if self.over_entries:
            # Entries at or below 0 have weight 0 there; the floor keeps q / k finite.
            return q / jnp.maximum(jax.nn.softmax(masked, axis=2), 1e-6)
        # A softmax over the one entry of a token is 1, whatever the token.
        return q / jnp.ones_like(masked)


class FOAAFusion(nn.Module):
    """Sum of eight cross-attentions and both features, one hidden layer, classifier.

    Attributes:
      num_classes: K.
      rate: of every dropout.
      omics_widths: of the omics encoder; the last is the width of the image feature.
      hidden: width of the hidden layer.
      over_entries: see `ArithmeticAttention`.
    """

    num_classes: int = 3
    rate: float = 0.01
    omics_widths: tuple[int, ...] = (64, 64, 64)
    hidden: int = 30
    over_entries: bool = False

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

        Args:
          image: feature of the encoder, D the last omics width.

        Returns:
          the hidden layer and its logits.

        Raises:
          ValueError: the image feature has another width than the encoded omics.

        Source: METHODS.md C6; methods/fusion.md "foaa".
        """
        del known
        if image.shape[1] != self.omics_widths[-1]:
            raise ValueError(
                f"foaa: the image feature has width {image.shape[1]}, expected "
                f"{self.omics_widths[-1]}, the last omics width. Set the width of the "
                "image projection to it."
            )
        encoder = OmicsEncoder(self.omics_widths, self.rate, name="omics_encoder")
        encoded = encoder(omics, train=train)
        total = image + encoded
        for operation in OPERATIONS:
            for direction, query, context in (
                ("omics", encoded, image),
                ("image", image, encoded),
            ):
                attention = ArithmeticAttention(
                    operation,
                    self.rate,
                    self.over_entries,
                    name=f"{operation}_from_{direction}",
                )
                total = total + attention(query, context, train=train)
        x = layer_norm("norm")(Linear(self.hidden, name="hidden")(total))
        x = jax.nn.relu(Dropout(self.rate, name="dropout")(x, train=train))
        return FusionOutput(x, Linear(self.num_classes, name="classifier")(x), {})


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration.

    Args:
      config: `fusion.image_features` (64 as published), `fusion.dropout` and
        `fusion.over_entries` are read.
      info: `classes` is read.

    Source: METHODS.md C6.
    """
    classes = len(info.classes)
    width = config.fusion.image_features
    fusion = FOAAFusion(
        num_classes=classes,
        rate=config.fusion.dropout,
        omics_widths=(64, 64, width),
        over_entries=config.fusion.over_entries,
    )
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=fusion,
        projection=ImageProjection(width, rectify=False),
    )
    return Multimodal("fusion.foaa", network, classes)
