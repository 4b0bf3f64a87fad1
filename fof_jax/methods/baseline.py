"""Baseline of Table I: a ViT trained by cross-entropy on the whole image."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.base import FixedState, Inputs, example_input, network_input
from fof_jax.methods.paper import encoder_cam, losses, views
from fof_jax.models import bag_vit, vit
from fof_jax.models.vit_classifier import ViTClassifier
from fof_jax.types import (
    Bag,
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    Params,
    StepContext,
    Variables,
)


class Model(nn.Module):
    """Encoder and a linear classifier with K outputs on its pooled token."""

    encoder: vit.ViT
    num_classes: int
    cam_block: int

    def setup(self) -> None:
        """Creates the classifier."""
        depth = self.encoder.size.depth
        if not -depth <= self.cam_block < 0:
            raise ValueError(
                f"cam.block: got {self.cam_block}, expected -{depth} … -1 for an "
                f"encoder of {depth} blocks."
            )
        if self.encoder.pooling == "class_token" and self.cam_block == -1:
            raise ValueError(
                "cam.block: after the last block the class token alone is read, so no "
                "patch has a gradient. Pass --config.cam.block=-2 or "
                "--config.pooling=patches."
            )
        self.classifier = nn.Dense(self.num_classes)

    def head(self, image: Float[Array, "B H W C"] | Bag) -> Float[Array, "B T D"]:
        """Image to the tokens that the class activation map is computed on."""
        bag, valid = bag_vit.bag_of(image), bag_vit.valid_of(image)
        tokens = self.encoder.add_position(self.encoder.embed(image), bag)
        segments = bag_vit.segments_of(valid)
        return self.encoder.run(tokens, 0, self._split, segments=segments)

    def tail(
        self, tokens: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None
    ) -> Output:
        """Those tokens to the pooled token and its logits; `valid` of bags."""
        segments = bag_vit.segments_of(valid)
        tokens = self.encoder.run(tokens, self._split, segments=segments)
        return self.classify(tokens, valid)

    def classify(
        self, tokens: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None
    ) -> Output:
        """Tokens after the last block to the pooled token and its logits."""
        features = self.encoder.pool(self.encoder.final_norm(tokens), valid)
        return Output(features=features, logits=self.classifier(features))

    def __call__(self, image: Float[Array, "B H W C"] | Bag) -> Output:
        """Image to the pooled token and its logits."""
        return self.tail(self.head(image), bag_vit.valid_of(image))

    @property
    def _split(self) -> int:
        return self.encoder.size.depth + self.cam_block + 1


@dataclasses.dataclass(frozen=True)
class Baseline(FixedState):
    """Cross-entropy on the global view; maps by Eq. (1) and (2), to compare with FoF.

    Attributes:
      network: encoder and classifier.
      theta: threshold of `patch_mask`; training does not use it.
    """

    network: Model
    theta: float

    @property
    def inputs(self) -> Inputs:
        """Images or bags, as the encoder reads."""
        read = encoder.modality(self.network.encoder)
        return Inputs(train=(read,), test=(read,))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters, no state."""
        params = self.network.init(key, example_input(batch))["params"]
        return Variables(params=params, state={}, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch."""
        logits = ctx.gather(self.apply(variables, batch).logits)
        grade, weight = jax.tree.map(ctx.gather, (batch.grade, batch.weight))
        value = losses.cross_entropy(logits, grade, weight)
        return value, LossOutput(metrics={"total": value}, state=variables.state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Pooled token and logits of the K grades."""
        return self._apply(variables, network_input(batch), method="__call__")

    def class_activation_map(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """The paper's A for this network, as in its Fig. 2 (b)."""
        return self._map(variables, image, target)

    def bag_map(
        self, variables: Variables, bag: Bag, target: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        """The paper's A over the patches of a bag."""
        return self._map(variables, bag, target)[..., 0]

    def _map(self, variables: Variables, image: Any, target: jax.Array) -> jax.Array:
        tokens = self._apply(variables, image, method="head")
        valid = bag_vit.valid_of(image)
        return encoder_cam.activation(
            self.network.encoder,
            lambda v: self._apply(variables, v, valid, method="tail").logits,
            tokens,
            target,
            valid=valid,
        ).A

    def patch_mask(self, cam: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """The paper's M for a map."""
        return views.keep_mask(cam, patch=self.network.encoder.patch, theta=self.theta)

    def vit_classifier(self, variables: Variables) -> ViTClassifier:
        """Encoder, pooling and the logits of the K grades."""

        def logits_of(tokens: jax.Array) -> jax.Array:
            out = self._apply(variables, tokens, method="classify")
            return out.logits

        return ViTClassifier(
            encoder=self.network.encoder,
            params=variables.params["encoder"],
            logits_of=logits_of,
        )

    def _apply(self, variables: Variables, *arguments: Any, method: str) -> Any:
        params = {"params": variables.params}
        return self.network.apply(params, *arguments, method=method)


def build(config: ConfigDict, info: DatasetInfo) -> Baseline:
    """The method that a config describes."""
    network = Model(
        encoder=encoder.build_vit(config),
        num_classes=len(info.classes),
        cam_block=config.cam.block,
    )
    return Baseline(network=network, theta=config.theta)
