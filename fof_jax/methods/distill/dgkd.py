"""The row "DGKD": the fused branch of a mean-teacher model of image and omics.

Three branches (image, omics, gated Kronecker fusion) have a classifier each. A moving
average of the parameters reads a second crop of the same region and the same omics, and
teaches every branch. The fused branch is tested, and teaches the students.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods import omics_input
from fof_jax.methods.base import Inputs
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.distill import dgkd_network, ema, kl
from fof_jax.methods.fusion.network import Network
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    State,
    StepContext,
    Variables,
)


@dataclasses.dataclass(frozen=True)
class DGKD:
    """Cross-entropies of three branches, and their divergence from a moving average.

    Attributes:
      network: of `dgkd_network.network`.
      classes: K.
      decay: of the moving average.
      l1: weight of the sum of absolute values of the omics branch, biases and
        classifier included.
      divergence: weight of the divergences.
      evaluated: which copy is tested, the trained parameters or their average.
      independent_average: whether the average starts from a second draw and teaches at
        step 0 before it was ever a copy, as published.
    """

    network: Network
    classes: int
    decay: float = 0.99
    l1: float = 3e-4
    divergence: float = 1.0
    evaluated: Literal["model", "average"] = "model"
    independent_average: bool = False

    @property
    def inputs(self) -> Inputs:
        """Image and omics in training and prediction, a second crop in training."""
        return Inputs(("image", "omics"), ("image", "omics"), "crop")

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes

    def init(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Variables:
        """Random parameters, batch statistics, and the moving average.

        Raises:
          ValueError: the batch has no omics.
        """
        omics_input.require(batch, row="dgkd", inputs=self.inputs, partly=True)
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        omics = jnp.zeros((1, batch.omics.shape[1]), jnp.float32)
        drawn = [self.network.init(k, image, omics) for k in jax.random.split(key)]
        copies = [
            {"params": d["params"], "batch_stats": dict(d.get("batch_stats", {}))}
            for d in drawn
        ]
        model, average = copies if self.independent_average else [copies[0]] * 2
        state = {"batch_stats": model["batch_stats"], "average": average}
        return Variables(params=model["params"], state=state, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Sum of CE and KL over the branches plus the L1 penalty.

        Args:
          batch: this device's rows with omics and a second view.

        Returns:
          the loss; metrics `total`, `ce_BRANCH`, `kd_BRANCH`, `l1`; new statistics.

        Raises:
          ValueError: omics or the second view are missing.

        Source: METHODS.md 5.7; methods/distillation.md, "Names" (dgkd_teacher).
        """
        omics_input.require(batch, row="dgkd", inputs=self.inputs)
        view = ema.second_view(batch, "dgkd")
        keys = jax.random.split(ctx.key)
        average = variables.state["average"]
        taught = average["params"]
        if not self.independent_average:
            taught = ema.teaching(taught, variables.params, ctx.step)
        omics = omics_input.masked(batch)
        student, statistics = dgkd_network.forward_train(
            self.network,
            variables.params,
            variables.state["batch_stats"],
            batch.image,
            omics,
            ctx.gather,
            keys[0],
            batch.index,
        )
        teacher, average_statistics = dgkd_network.forward_train(
            self.network,
            lax.stop_gradient(taught),
            average["batch_stats"],
            view,
            omics,
            ctx.gather,
            keys[1],
            batch.index,
        )
        grade, weight = jax.tree.map(ctx.gather, (batch.grade, batch.weight))
        metrics = {"l1": dgkd_network.omics_l1(variables.params)}
        total = self.l1 * metrics["l1"]
        ours, theirs = (
            dgkd_network.branch_logits(student),
            dgkd_network.branch_logits(teacher),
        )
        for name in dgkd_network.BRANCHES:
            ce = cross_entropy(logits=ours[name], grade=grade, weight=weight)
            kd = kl.divergence(
                student=ours[name], teacher=theirs[name], temperature=1.0
            ).mean()
            metrics |= {f"ce_{name}": ce, f"kd_{name}": kd}
            total = total + ce + self.divergence * kd
        state = {
            "batch_stats": statistics,
            "average": average | {"batch_stats": average_statistics},
        }
        return total, LossOutput(metrics={"total": total, **metrics}, state=state)

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state with the moving average of the parameters after a step."""
        average = variables.state["average"]
        params = ema.averaged(
            average["params"], variables.params, step, decay=self.decay
        )
        return variables.state | {"average": average | {"params": params}}

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Fused feature and logits in evaluation.

        Raises:
          ValueError: omics are missing.
        """
        omics_input.require(batch, row="dgkd", inputs=self.inputs)
        collections = {
            "params": variables.params,
            "batch_stats": variables.state["batch_stats"],
        }
        if self.evaluated == "average":
            collections = variables.state["average"]
        image = self.network.apply(
            collections, batch.image, train=False, method="encode"
        )
        omics = omics_input.masked(batch)
        out: Any = self.network.apply(
            collections, image, omics, train=False, method="fuse"
        )
        return Output(features=out.fused.features, logits=out.fused.logits)

    def apply_train(
        self,
        variables: Variables,
        batch: Batch,
        gather: Callable[[jax.Array], jax.Array],
        key: jax.Array,
    ) -> tuple[Output, State]:
        """Fused feature and logits of the global batch in training mode.

        Args:
          variables: of `init`.
          batch: this device's rows.
          gather: local rows to the rows of all devices.
          key: of the dropout.

        Returns:
          the outputs, and the state with moved statistics.

        Source: methods/distillation.md, "Quirks" (teacher in train mode).
        """
        omics_input.require(batch, row="dgkd", inputs=self.inputs)
        out, statistics = dgkd_network.forward_train(
            self.network,
            variables.params,
            variables.state["batch_stats"],
            batch.image,
            omics_input.masked(batch),
            gather,
            key,
            batch.index,
        )
        state = variables.state | {"batch_stats": statistics}
        return Output(features=out.fused.features, logits=out.fused.logits), state


def build(config: ConfigDict, info: DatasetInfo) -> DGKD:
    """The row of a configuration.

    Args:
      config: `dgkd.features`, `dgkd.dropout`, `dgkd.cut_gradient`, `dgkd.decay`,
        `dgkd.l1` and `dgkd.as_published` are read.
      info: `classes` is read.

    Source: METHODS.md 5.7; methods/distillation.md, "Recipes" (DGKD teacher).
    """
    return DGKD(
        network=dgkd_network.network(
            encoder=encoders.build_image_encoder(config),
            num_classes=len(info.classes),
            features=config.dgkd.features,
            fused=config.dgkd.features,
            rate=config.dgkd.dropout,
            cut_gradient=config.dgkd.cut_gradient,
        ),
        classes=len(info.classes),
        decay=config.dgkd.decay,
        l1=config.dgkd.l1,
        independent_average=config.dgkd.as_published,
    )
