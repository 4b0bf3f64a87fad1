"""Baseline of Table I: a ViT trained by cross-entropy on the whole image."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.base import Inputs
from fof_jax.methods.paper import cam, losses, views
from fof_jax.models import vit
from fof_jax.models.vit_classifier import ViTClassifier
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    Params,
    State,
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

    def head(self, image: Float[Array, "B H W C"]) -> Float[Array, "B T D"]:
        """Image to the tokens that the class activation map is computed on."""
        tokens = self.encoder.add_position(self.encoder.embed(image))
        return self.encoder.run(tokens, 0, self._split)

    def tail(self, tokens: Float[Array, "B T D"]) -> Output:
        """Those tokens to the pooled token and its logits."""
        return self.classify(self.encoder.run(tokens, self._split))

    def classify(self, tokens: Float[Array, "B T D"]) -> Output:
        """Tokens after the last block to the pooled token and its logits."""
        features = self.encoder.pool(self.encoder.final_norm(tokens))
        return Output(features=features, logits=self.classifier(features))

    def __call__(self, image: Float[Array, "B H W C"]) -> Output:
        """Image to the pooled token and its logits."""
        return self.tail(self.head(image))

    @property
    def _split(self) -> int:
        return self.encoder.size.depth + self.cam_block + 1


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Cross-entropy on the global view; maps by Eq. (1) and (2), to compare with FoF.

    Attributes:
      network: encoder and classifier.
      theta: threshold of `patch_mask`; training does not use it.
    """

    network: Model
    theta: float

    inputs: ClassVar[Inputs] = Inputs(train=("image",), test=("image",))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters, no state."""
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        params = self.network.init(key, image)["params"]
        return Variables(params=params, state={}, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch."""
        logits = ctx.gather(self.apply(variables, batch).logits)
        grade, weight = jax.tree.map(ctx.gather, (batch.grade, batch.weight))
        value = losses.cross_entropy(logits, grade, weight)
        return value, LossOutput(metrics={"total": value}, state=variables.state)

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """No state to update."""
        del step
        return variables.state

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Pooled token and logits of the K grades."""
        return self._apply(variables, batch.image, "__call__")

    def class_activation_map(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """The paper's A for this network, as in its Fig. 2 (b)."""
        tokens = self._apply(variables, image, "head")
        ahead, patches = jnp.split(tokens, [self.network.encoder.num_prefix], axis=1)

        def logits_of(v: jax.Array) -> jax.Array:
            whole = jnp.concatenate([ahead, v], axis=1)  # [B, T, D]
            return self._apply(variables, whole, "tail").logits

        return cam.class_activation_map(
            logits_of=logits_of,
            tokens=patches,
            target=target,
            grid=self.network.encoder.grid,
            image_size=self.network.encoder.image_size,
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

    def _apply(self, variables: Variables, argument: jax.Array, method: str) -> Any:
        return self.network.apply({"params": variables.params}, argument, method=method)


def build(config: ConfigDict, info: DatasetInfo) -> Baseline:
    """The method that a config describes."""
    network = Model(
        encoder=encoder.build_vit(config),
        num_classes=len(info.classes),
        cam_block=config.cam.block,
    )
    return Baseline(network=network, theta=config.theta)
