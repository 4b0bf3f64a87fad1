"""Pathomic: gated Kronecker fusion, in the published and the single-stage form."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.methods.fusion.multimodal import Multimodal
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.dropout import Dropout
from fof_jax.models.linear import Bilinear, Linear
from fof_jax.models.omics import MaxNet
from fof_jax.types import DatasetInfo

FORMS = ("two_stage", "single_stage")


class KroneckerFusion(nn.Module):
    """Gates each modality by both, takes the Kronecker product, two hidden layers.

    Parameters of a gate that is off exist, as published, and receive no gradient;
    `unused` names them.

    Attributes:
      features: width of the fused feature.
      num_classes: K.
      rate: of every dropout.
      gates: whether the image and the omics feature are gated.
      scales: the gated widths are D / scale; a gate that is off requires scale 1.
      skip: whether the gated features are appended before the second hidden layer.
      bilinear: whether gates are bilinear in both features, else linear.
      batch_norm: whether the hidden layers are normalized and the inputs rectified, as
        the DGKD code does.
    """

    features: int = 64
    num_classes: int = 3
    rate: float = 0.25
    gates: tuple[bool, bool] = (False, True)
    scales: tuple[int, int] = (1, 2)
    skip: bool = False
    bilinear: bool = True
    batch_norm: bool = False

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

        With v_1, v_2 the features: h_i = ReLU(A_i v_i), z_i = v_1^T T_i v_2 + c_i,
        o_i = Drop(ReLU(B_i (sigma(z_i) * h_i))), k = [o_1; 1] x [o_2; 1] (Kronecker),
        e_1 = Drop(ReLU(C Drop(k))), e_2 = Drop(ReLU(D [e_1; skip])), logits E e_2.

        Returns:
          e_2 and its logits.

        Raises:
          ValueError: the fields do not fit each other.

        Source: METHODS.md 5.0 and C2; methods/fusion_corrections.md 1-4, 6, 7.
        """
        del known
        inputs = (image, omics)
        self._check(inputs)
        if self.batch_norm:
            inputs = (jax.nn.relu(image), jax.nn.relu(omics))
        gated = [self._gated(i, inputs, train) for i in (0, 1)]
        k = (gated[0][:, :, None] * gated[1][:, None, :]).reshape(image.shape[0], -1)
        self.sow("intermediates", "kronecker", k)
        x = Dropout(self.rate, name="dropout_kronecker")(k, train=train)
        x = self._hidden(1, x, train)
        if self.skip:
            x = jnp.concatenate([x, *gated], axis=1)
        x = self._hidden(2, x, train)
        logits = Linear(self.num_classes, name="classifier")(x)
        return FusionOutput(x, logits, {})

    @property
    def unused(self) -> tuple[str, ...]:
        """Submodules without gradient: the layers of gates that are off."""
        return tuple(
            f"{layer}{i}"
            for i, gate in enumerate(self.gates, 1)
            if not gate
            for layer in ("input_", "gate_")
        )

    def _gated(
        self, i: int, inputs: tuple[jax.Array, jax.Array], train: bool
    ) -> Float[Array, "B E"]:
        v = inputs[i]
        width = v.shape[1] // self.scales[i]
        # Evaluated with the gate off too, so that the published parameters exist;
        # the compiler removes what is not used.
        h = jax.nn.relu(Linear(width, "normal", name=f"input_{i + 1}")(v))
        if self.bilinear:
            z = Bilinear(width, name=f"gate_{i + 1}")(*inputs)
        else:
            both = jnp.concatenate(inputs, axis=1)
            z = Linear(width, "normal", name=f"gate_{i + 1}")(both)
        x = jax.nn.sigmoid(z) * h if self.gates[i] else v
        x = jax.nn.relu(Linear(width, "normal", name=f"output_{i + 1}")(x))
        x = Dropout(self.rate, name=f"dropout_{i + 1}")(x, train=train)
        # After the dropout: the 1 keeps the unimodal terms in the product.
        return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)

    def _hidden(self, i: int, x: Float[Array, "B D"], train: bool) -> jax.Array:
        x = Linear(self.features, "normal", name=f"hidden_{i}")(x)
        if self.batch_norm:
            x = BatchNorm(name=f"norm_{i}")(x, train=train)
        return Dropout(self.rate, name=f"dropout_hidden_{i}")(
            jax.nn.relu(x), train=train
        )

    def _check(self, inputs: tuple[jax.Array, jax.Array]) -> None:
        names = ("image", "omics")
        for name, v, gate, scale in zip(
            names, inputs, self.gates, self.scales, strict=True
        ):
            if not gate and scale != 1:
                raise ValueError(
                    f"pathomic: the {name} gate is off and its scale is {scale}, "
                    "expected 1: the ungated feature keeps its width. Turn the gate on "
                    "or set the scale to 1."
                )
            if scale < 1 or v.shape[1] % scale:
                raise ValueError(
                    f"pathomic: the {name} feature has width {v.shape[1]} and scale "
                    f"{scale}, expected a divisor of the width."
                )


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration, in one of two forms.

    Args:
      config: `fusion.form` is "two_stage" (Pathomic Fusion: a frozen image encoder of
        32 features and an omics network from earlier stages) or "single_stage" (DGKD
        without its moving average: all trained at once). `fusion.dropout` and, for the
        single stage, `fusion.image_features` and `fusion.cut_gradient` are read.
      info: `classes` is read.

    Raises:
      ValueError: the form is unknown.

    Source: METHODS.md C2, 5.7; methods/fusion.md "pofusion"; corrections 1-8.
    """
    classes = len(info.classes)
    rate = config.fusion.dropout
    if config.fusion.form not in FORMS:
        raise ValueError(
            f"fusion.form: got {config.fusion.form!r}, expected one of "
            f"{', '.join(FORMS)}. Pass --config.fusion.form."
        )
    if config.fusion.form == "two_stage":
        network = Network(
            image_encoder=encoder.build_image_encoder(config),
            fusion=KroneckerFusion(num_classes=classes, rate=rate),
            omics_network=MaxNet(32, classes, rate),
        )
        return Multimodal(
            "fusion.pathomic", network, classes, frozen_image=True, initial_omics=True
        )
    width = config.fusion.image_features
    fusion = KroneckerFusion(
        features=width,
        num_classes=classes,
        rate=rate,
        gates=(True, True),
        scales=(1, 1),
        batch_norm=True,
    )
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=fusion,
        omics_network=MaxNet(width, classes, rate, rectify=True),
        projection=ImageProjection(width, batch_norm=True),
        image_classes=classes,
        cut_gradient=config.fusion.cut_gradient,
    )
    return Multimodal("fusion.pathomic", network, classes, branch_losses=True)
