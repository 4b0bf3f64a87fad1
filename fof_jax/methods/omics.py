"""The row that reads omics alone: MaxNet and cross-entropy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods import omics_input
from fof_jax.methods.base import FixedState, Inputs
from fof_jax.methods.classification import cross_entropy
from fof_jax.models.omics import MaxNet
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    StepContext,
    Variables,
)


@dataclasses.dataclass(frozen=True)
class Omics(FixedState):
    """Cross-entropy of MaxNet on the global batch.

    The published training adds an L1 penalty on all parameters, which is part of the
    optimizer's configuration.

    Attributes:
      network: with a classifier.
    """

    network: MaxNet

    @property
    def inputs(self) -> Inputs:
        """Omics in training and prediction."""
        return Inputs(train=("omics",), test=("omics",))

    @property
    def num_classes(self) -> int:
        """K."""
        classes = self.network.num_classes
        if classes is None:
            raise ValueError(
                "omics: the network has num_classes None, expected the number of "
                "grades. Build it with a classifier."
            )
        return classes

    def init(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Variables:
        """Random parameters, no state.

        Raises:
          ValueError: the batch has no omics.
        """
        omics_input.require(batch, row="omics", inputs=self.inputs, partly=True)
        omics = jnp.zeros((1, batch.omics.shape[1]), jnp.float32)
        params = self.network.init(key, omics, train=False)["params"]
        return Variables(params=params, state={}, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch.

        Raises:
          ValueError: omics are missing.
        """
        omics_input.require(batch, row="omics", inputs=self.inputs)
        omics, grade, weight = jax.tree.map(
            ctx.gather, (omics_input.masked(batch), batch.grade, batch.weight)
        )
        out: Any = self.network.apply(
            {"params": variables.params},
            omics,
            train=True,
            rngs={"dropout": ctx.key},
        )
        value = cross_entropy(logits=out.logits, grade=grade, weight=weight)
        return value, LossOutput(metrics={"total": value}, state=variables.state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Features and logits in evaluation.

        Raises:
          ValueError: omics are missing.
        """
        omics_input.require(batch, row="omics", inputs=self.inputs)
        out: Any = self.network.apply(
            {"params": variables.params}, omics_input.masked(batch), train=False
        )
        return Output(features=out.features, logits=out.logits)


def build(config: ConfigDict, info: DatasetInfo) -> Omics:
    """The row of a configuration.

    Args:
      config: `omics.features`, `omics.dropout` and `omics.rectify` are read.
      info: `classes` is read.

    Returns:
      the method.

    Source: METHODS.md 5.0; recipe "PF omic" of methods/fusion.md.
    """
    network = MaxNet(
        features=config.omics.features,
        num_classes=len(info.classes),
        rate=config.omics.dropout,
        rectify=config.omics.rectify,
    )
    return Omics(network=network)
