"""The method of the fusion rows: cross-entropies of an image-and-omics network."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fof_jax.methods import omics_input
from fof_jax.methods.base import FixedState, Inputs
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.fusion.network import Network
from fof_jax.models.device_rows import device_rows
from fof_jax.types import Batch, LossOutput, Output, StepContext, Variables


@dataclasses.dataclass(frozen=True)
class Multimodal(FixedState):
    """Grades from an image and an omics vector.

    L1 penalties, the schedule and the epoch of unfreezing of the published trainings
    are part of the optimizer's configuration.

    Attributes:
      row: name in messages and in the configuration.
      network: encoders and fusion.
      classes: K.
      branch_losses: whether cross-entropies of the image and the omics classifier are
        added, with weight 1.
      imputes: whether a missing modality is accepted.
      frozen_image: whether the image encoder is that of an earlier stage, in evaluation
        mode: `frozen["image"]` is its `Variables`, with the encoder under "encoder".
      initial_omics: whether the omics network starts from an earlier stage:
        `frozen["omics_network"]` is its `Variables`.
    """

    row: str
    network: Network
    classes: int
    branch_losses: bool = False
    imputes: bool = False
    frozen_image: bool = False
    initial_omics: bool = False

    @property
    def inputs(self) -> Inputs:
        """Image and omics in training and prediction."""
        return Inputs(train=("image", "omics"), test=("image", "omics"))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes

    @property
    def untrained(self) -> tuple[tuple[str, ...], ...]:
        """Subtrees of the parameters that have no gradient, for the optimizer."""
        unused = getattr(self.network.fusion, "unused", ())
        trunk = () if self.frozen_image else self._frozen_trunk
        return (*(("fusion", name) for name in unused), *trunk)

    @property
    def _frozen_trunk(self) -> tuple[tuple[str, ...], ...]:
        paths = getattr(self.network.image_encoder, "untrained", ())
        return tuple(("image_encoder", *path) for path in paths)

    def init(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Variables:
        """Random parameters, and those of earlier stages.

        Args:
          frozen: of earlier stages by name; see `frozen_image`, `initial_omics`.

        Returns:
          variables; the state has the batch statistics.

        Raises:
          ValueError: omics or an earlier stage are missing.
        """
        omics_input.require(batch, row=self.row, inputs=self.inputs, partly=True)
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        omics = jnp.zeros((1, batch.omics.shape[1]), jnp.float32)
        variables = self.network.init(key, image, omics)
        params = dict(variables["params"])
        statistics = dict(variables.get("batch_stats", {}))
        if self.frozen_image:
            self._stage(frozen, "image")
            params.pop("image_encoder", None)
            statistics.pop("image_encoder", None)
        if self.initial_omics:
            params["omics_network"] = self._stage(frozen, "omics_network").params
        return Variables(
            params=params, state={"batch_stats": statistics}, frozen=frozen
        )

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Cross-entropy, those of the branches, and the fusion's auxiliary losses.

        Returns:
          the loss; metrics `total`, `fused` and the others by name; new statistics.

        Raises:
          ValueError: omics are missing.
        """
        self.check(batch)
        encode_key, fuse_key = jax.random.split(ctx.key)
        collections = self._collections(variables)
        with device_rows(ctx.gather, batch.index):
            image, collections["batch_stats"] = self._encode(
                collections, batch, train=True, key=encode_key
            )
        image, omics, known, grade, weight = jax.tree.map(
            ctx.gather,
            (
                image,
                omics_input.masked(batch),
                self._known(batch),
                batch.grade,
                batch.weight,
            ),
        )
        out: Any
        updated: Any
        out, updated = self.network.apply(
            collections,
            image,
            omics,
            known=known,
            train=True,
            method="fuse",
            rngs={"dropout": fuse_key},
            mutable=["batch_stats"],
        )
        metrics = self._terms(out, grade, weight)
        total = metrics["fused"]
        if self.branch_losses:
            total = total + metrics["image"] + metrics["omics"]
        if out.fused.auxiliary is not None:
            total = total + out.fused.auxiliary
        statistics = dict(updated.get("batch_stats", {}))
        if self.frozen_image:
            statistics.pop("image_encoder", None)
        state = {**variables.state, "batch_stats": statistics}
        return total, LossOutput(metrics={"total": total, **metrics}, state=state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Fused features and logits in evaluation.

        Raises:
          ValueError: omics are missing.
        """
        self.check(batch)
        collections = self._collections(variables)
        image, _ = self._encode(collections, batch, train=False, key=None)
        out: Any = self.network.apply(
            collections,
            image,
            omics_input.masked(batch),
            known=self._known(batch),
            train=False,
            method="fuse",
        )
        return Output(features=out.fused.features, logits=out.fused.logits)

    def check(self, batch: Batch) -> None:
        """Checks that every patient has what the row needs.

        Raises:
          ValueError: a patient has no omics and the row cannot do without.
        """
        omics_input.require(
            batch, row=self.row, inputs=self.inputs, partly=self.imputes
        )

    def _terms(
        self, out: Any, grade: jax.Array, weight: jax.Array | None
    ) -> dict[str, jax.Array]:
        terms = {
            "fused": cross_entropy(logits=out.fused.logits, grade=grade, weight=weight),
            **out.fused.losses,
        }
        if self.branch_losses:
            for name, logits in (
                ("image", out.image_logits),
                ("omics", out.omics_logits),
            ):
                terms[name] = cross_entropy(logits=logits, grade=grade, weight=weight)
        return terms

    def _encode(
        self,
        collections: dict[str, Any],
        batch: Batch,
        *,
        train: bool,
        key: Any,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Features of the image encoder, and the statistics after it."""
        train = train and not self.frozen_image
        out: Any
        updated: Any
        out, updated = self.network.apply(
            collections,
            jnp.asarray(batch.image),
            train=train,
            method="encode",
            rngs={"dropout": key} if train else {},
            mutable=["batch_stats"] if train else [],
        )
        return out, updated.get("batch_stats", collections["batch_stats"])

    def _collections(self, variables: Variables) -> dict[str, Any]:
        params: dict[str, Any] = dict(variables.params)
        # Read from a file an empty tree is not there.
        statistics = dict(variables.state.get("batch_stats", {}))
        if self.frozen_image:
            stage = self._stage(variables.frozen, "image")
            params["image_encoder"] = jax.lax.stop_gradient(stage.params["encoder"])
            of_stage = stage.state.get("batch_stats", {})
            statistics["image_encoder"] = of_stage.get("encoder", {})
        return {"params": params, "batch_stats": statistics}

    def _known(self, batch: Batch) -> Bool[Array, "B 2"]:
        omics = omics_input.known_rows(batch)
        return jnp.stack([jnp.ones_like(omics), omics], axis=1)

    def _stage(self, frozen: Any, name: str) -> Variables:
        if not frozen or name not in frozen:
            raise ValueError(
                f"{self.row}: the weights of the stage {name!r} are missing, expected "
                "them from an earlier stage. Train it first: "
                "--config.stages=image,omics,fusion."
            )
        return frozen[name]
