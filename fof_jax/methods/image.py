"""Rows of Table I that read the image alone: an encoder and cross-entropy.

`config.encoder` is the ViT's, or one of `models.image_encoders`. PathCNN, its VGG form
and SwinV2 are names for this method with their encoder.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods.base import FixedState, Inputs
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.distill.student_network import StudentNetwork
from fof_jax.models.device_rows import device_rows
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    Params,
    StepContext,
    Variables,
)

# How the encoder of a named row begins.
ENCODERS = {"pathcnn": "resnet18", "pathcnn_vgg": "vgg19bn", "swinv2": "swinv2_"}


@dataclasses.dataclass(frozen=True)
class ImageClassifier(FixedState):
    """Mean cross-entropy of the global batch; state is the batch statistics.

    Attributes:
      network: encoder and linear classifier.
    """

    network: StudentNetwork

    inputs: ClassVar[Inputs] = Inputs(train=("image",), test=("image",))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    @property
    def untrained(self) -> tuple[tuple[str, ...], ...]:
        """Subtrees of the parameters that take no step: a frozen trunk."""
        return self.network.untrained

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters, and batch statistics of mean 0 and variance 1."""
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        variables = self.network.init(key, image)
        statistics = variables.get("batch_stats", {})
        state = {"batch_stats": statistics} if statistics else {}
        return Variables(params=variables["params"], state=state, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch.

        Args:
          ctx: its key draws dropout; its gather synchronizes batch statistics and
            collects the features of all devices.

        Returns:
          the loss; the metric `total` and the new statistics.
        """
        with device_rows(ctx.gather, batch.index):
            features, statistics = self.network.encode(
                variables.params,
                variables.state.get("batch_stats", {}),
                jnp.asarray(batch.image),
                ctx.key,
            )
        features, grade, weight = jax.tree.map(
            ctx.gather, (features, batch.grade, batch.weight)
        )
        logits = self.network.logits(variables.params, features)
        value = cross_entropy(logits=logits, grade=grade, weight=weight)
        state = {"batch_stats": statistics} if statistics else {}
        return value, LossOutput(metrics={"total": value}, state=state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Feature and logits in evaluation."""
        features, _ = self.network.encode(
            variables.params,
            variables.state.get("batch_stats", {}),
            jnp.asarray(batch.image),
            None,
        )
        return Output(features, self.network.logits(variables.params, features))


def build(config: ConfigDict, info: DatasetInfo) -> ImageClassifier:
    """The row of a configuration.

    Args:
      config: `method`, `encoder` and what `encoder.build_vit` reads.
      info: `classes` is read.

    Raises:
      ValueError: the encoder is not that of the named row.

    Source: METHODS.md A2, A3; methods/encoders.md.
    """
    expected = ENCODERS.get(config.method, "")
    if not config.encoder.startswith(expected):
        name = "swinv2_tiny/8" if expected.endswith("_") else expected
        raise ValueError(
            f"encoder: got {config.encoder!r}, but the method {config.method!r} is "
            f"{expected.rstrip('_')}. Pass --config.encoder={name}, or "
            "--config.method=image for another encoder."
        )
    network = StudentNetwork(
        encoder=encoders.build_classified(config), num_classes=len(info.classes)
    )
    return ImageClassifier(network=network)
