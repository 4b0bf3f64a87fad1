"""Frame of the rows that pool the features of a bag: a network and cross-entropy."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fof_jax.methods.base import FixedState, Inputs, example_input
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.paper import cam
from fof_jax.types import (
    Bag,
    Batch,
    LossOutput,
    Output,
    Params,
    StepContext,
    Variables,
)


@dataclasses.dataclass(frozen=True)
class BagClassifier(FixedState):
    """Mean cross-entropy of the global batch; no state.

    Attributes:
      network: called as `network(bag)`, gives `Output`; its method `evidence(bag,
        target)` gives the evidence of each patch [B, T], at least 0.
      num_classes: K.
    """

    network: nn.Module
    num_classes: int

    inputs: ClassVar[Inputs] = Inputs(train=("bag",), test=("bag",))

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters, no state.

        Raises:
          ValueError: the batch has images.
        """
        if batch.bag is None:
            raise ValueError(
                "bag: got images, expected bags of patch features. Train on a table of "
                "HDF5 files (configs/slides.py), or pass another --config.method."
            )
        params = self.network.init(key, example_input(batch))["params"]
        return Variables(params=params, state={}, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch."""
        logits, grade, weight = jax.tree.map(
            ctx.gather,
            (self.apply(variables, batch).logits, batch.grade, batch.weight),
        )
        value = cross_entropy(logits=logits, grade=grade, weight=weight)
        return value, LossOutput(metrics={"total": value}, state=variables.state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Pooled feature and logits of the K grades."""
        return self._apply(variables, batch.bag, method="__call__")

    def bag_map(
        self, variables: Variables, bag: Bag, target: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        """The network's evidence, scaled to [0, 1] as A of Eq. (1)."""
        evidence = self._apply(variables, bag, target, method="evidence")
        valid = jnp.asarray(bag.valid)
        evidence = jnp.where(valid, evidence, 0)
        return cam.min_max(evidence[..., None], valid[..., None])[..., 0]

    def _apply(self, variables: Variables, *arguments: Any, method: str) -> Any:
        params = {"params": variables.params}
        return self.network.apply(params, *arguments, method=method)
