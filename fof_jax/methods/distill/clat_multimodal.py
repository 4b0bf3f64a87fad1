"""CLAT's first stage as a method: a multimodal teacher with masked inputs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods.base import Inputs
from fof_jax.methods.distill import clat_masks as masks
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill import clat_teacher, ema
from fof_jax.methods.distill.clat_inputs import (
    encode,
    init_encoder,
    omics_of,
    superpixels_of,
)
from fof_jax.methods.distill.clat_network import Branches
from fof_jax.models.device_rows import DeviceRows
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    State,
    StepContext,
    Variables,
)

L1_CONSTANT = 9.0  # of two untrained constants, 6 and -3 (M7)


@dataclasses.dataclass(frozen=True)
class MultimodalTeacher:
    """Image, omics and fused branch, taught by their moving average on masked inputs.

    Attributes:
      encoder: called as `encoder(image, train=...)`, gives [B, E].
      classes: K.
      width: of the features of all branches.
      dropout: rate in the omics network and the fusion.
      superpixel_count: of an image.
      masked_superpixels, masked_omics: how many are masked in a pass.
      lambda_l1: of the omics network's L1 norm.
      ema_decay: of the moving average.
      mask_from: progress of the training from which inputs are masked.
      as_published: the moving average starts from a second initialization and is never
        in evaluation mode (M4); superpixels that are absent can be picked (M2).
    """

    encoder: nn.Module
    classes: int
    width: int = 128
    dropout: float = 0.1
    superpixel_count: int = 100
    masked_superpixels: int = 4
    masked_omics: int = 5
    lambda_l1: float = 3e-4
    ema_decay: float = 0.99
    mask_from: float = 1 / 30
    as_published: bool = False

    @property
    def inputs(self) -> Inputs:
        """Image and omics, and in training a second crop and superpixels."""
        return Inputs(
            ("image", "omics"),
            ("image", "omics"),
            "crop",
            superpixels=self.superpixel_count,
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes

    def init(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Variables:
        """Random parameters and the moving average.

        Raises:
          ValueError: the batch has no omics.
        """
        omics = omics_of(batch, "clat").shape[1]

        def copy(key: jax.Array) -> dict[str, Any]:
            encoder_key, head_key = jax.random.split(key)
            params, statistics, width = init_encoder(self.encoder, encoder_key, batch)
            heads, moving = network.init_multimodal(
                head_key,
                encoded=width,
                omics=omics,
                width=self.width,
                classes=self.classes,
            )
            return {
                "params": {"encoder": params, "heads": heads},
                "batch_stats": {"encoder": statistics, "heads": moving},
            }

        first, second = map(copy, jax.random.split(key))
        average = second if self.as_published else first
        state = {"batch_stats": first["batch_stats"], "average": average}
        return Variables(params=first["params"], state=state, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """The loss of stage 1; see `clat_teacher.teacher_step`.

        Args:
          batch: this device's rows with omics and a second view, which stands for the
            three views of the published moving average.

        Raises:
          ValueError: omics or the second view are missing.
        """
        omics, view = omics_of(batch, "clat"), ema.second_view(batch, "clat")
        pixel_mask, omic_mask = self.input_masks(variables, batch, ctx)
        params, state = variables.params, variables.state
        average = self._average(variables, ctx.step)
        keys = jax.random.split(ctx.key, 4)
        moving = state["batch_stats"]["encoder"]
        hidden = jnp.where(pixel_mask[..., None], 0, batch.image)
        encoded, rows = [], DeviceRows(ctx.gather, batch.index)
        encode_rows = functools.partial(encode, self.encoder, rows=rows)
        for image, key in ((hidden, keys[0]), (batch.image, keys[1])):
            features, moving = encode_rows(
                params["encoder"], moving, image, train=True, key=key
            )
            encoded.append(features)
        ema_features, average_moving = encode_rows(
            lax.stop_gradient(average["params"]["encoder"]),
            average["batch_stats"]["encoder"] if self.as_published else moving,
            view,
            train=self.as_published,
            key=keys[2],
        )
        masked_image, image, ema_image, omics, omic_mask, grade, weight = jax.tree.map(
            ctx.gather,
            (*encoded, ema_features, omics, omic_mask, batch.grade, batch.weight),
        )
        out = clat_teacher.teacher_step(
            params["heads"],
            average["params"]["heads"],
            state["batch_stats"]["heads"],
            average["batch_stats"]["heads"],
            encoded=clat_teacher.Encoded(image, masked_image, *[ema_image] * 3),
            omics=omics,
            omic_mask=omic_mask,
            grade=grade,
            weight=weight,
            lambda_l1=self.lambda_l1,
            l1_constant=L1_CONSTANT if self.as_published else 0.0,
            ema_train=self.as_published,
            masking=(ctx.progress >= self.mask_from).astype(jnp.float32),
            rate=self.dropout,
            key=keys[3],
        )
        moving, average_moving = lax.stop_gradient((moving, average_moving))
        average_statistics = {"encoder": average_moving, "heads": out.ema_statistics}
        state = {
            "batch_stats": {"encoder": moving, "heads": out.statistics},
            "average": average | {"batch_stats": average_statistics},
        }
        return out.total, LossOutput({"total": out.total, **out.terms}, state)

    def input_masks(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Bool[Array, "B H W"], Bool[Array, "B M"]]:
        """Where image and omics of this device's rows are masked.

        Source: methods/clat_pathgcn.md, CLAT stage 1, step 1.
        """
        frozen = lax.stop_gradient(variables)

        def loss(image: jax.Array, omics: jax.Array) -> Float[Array, ""]:
            out = self.branches(frozen, image, omics)
            # A mean over the rows of all devices would only scale the gradients, and
            # the masks depend on their order within a row.
            return clat_teacher.cross_entropy(out.fused.logits, batch.grade)

        by_image, by_omic = jax.grad(loss, argnums=(0, 1))(
            jnp.asarray(batch.image), omics_of(batch, "clat")
        )
        labels = superpixels_of(batch, "clat")
        scores = masks.superpixel_scores(
            by_image, labels, capacity=masks.CAPACITY, absent_zero=self.as_published
        )
        count = self.masked_superpixels
        pixel_mask = masks.superpixel_mask(scores, labels, count=count)
        return pixel_mask, masks.omic_mask(by_omic, count=self.masked_omics)

    def branches(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        omics: Float[Array, "B M"],
    ) -> Branches:
        """The three branches in evaluation."""
        params, moving = variables.params, variables.state["batch_stats"]
        encoded, _ = encode(
            self.encoder, params["encoder"], moving["encoder"], image, train=False
        )
        out, _ = network.multimodal(
            params["heads"], moving["heads"], encoded, omics, train=False
        )
        return out

    def apply_train(
        self, variables: Variables, batch: Batch, ctx: StepContext, key: jax.Array
    ) -> tuple[Output, State]:
        """The fused branch of the global batch in training mode (S1), and the state."""
        params, moving = variables.params, variables.state["batch_stats"]
        encode_key, head_key = jax.random.split(key)
        encoded, encoder = encode(
            self.encoder,
            params["encoder"],
            moving["encoder"],
            batch.image,
            train=True,
            key=encode_key,
            rows=DeviceRows(ctx.gather, batch.index),
        )
        out, heads = network.multimodal(
            params["heads"],
            moving["heads"],
            ctx.gather(encoded),
            ctx.gather(omics_of(batch, "clat")),
            train=True,
            rate=self.dropout,
            key=head_key,
        )
        moved = {"batch_stats": {"encoder": encoder, "heads": heads}}
        return Output(*out.fused), variables.state | moved

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state with the moving average of the parameters after a step."""
        average = variables.state["average"]
        params = ema.averaged(
            average["params"], variables.params, step, decay=self.ema_decay
        )
        return variables.state | {"average": average | {"params": params}}

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Fused feature and logits in evaluation.

        Raises:
          ValueError: the batch has no omics.
        """
        omics = omics_of(batch, "clat")
        return Output(*self.branches(variables, batch.image, omics).fused)

    def _average(self, variables: Variables, step: jax.Array) -> dict[str, Any]:
        """The moving average; at step 0 the parameters, which may be pretrained."""
        average = variables.state["average"]
        if self.as_published:
            return average
        params = lax.stop_gradient(variables.params)
        return average | {"params": ema.teaching(average["params"], params, step)}


def build(config: ConfigDict, info: DatasetInfo) -> MultimodalTeacher:
    """The first stage of a configuration.

    Args:
      config: `clat.features`, `clat.dropout`, `clat.superpixels`,
        `clat.masked_superpixels`, `clat.masked_omics`, `clat.l1`, `clat.ema_decay`,
        `clat.mask_from` and `clat.as_published` are read.
      info: `classes` is read.

    Source: methods/clat_pathgcn.md, "Like for like".
    """
    return MultimodalTeacher(
        encoder=encoders.build_image_encoder(config),
        classes=len(info.classes),
        width=config.clat.features,
        dropout=config.clat.dropout,
        superpixel_count=config.clat.superpixels,
        masked_superpixels=config.clat.masked_superpixels,
        masked_omics=config.clat.masked_omics,
        lambda_l1=config.clat.l1,
        ema_decay=config.clat.ema_decay,
        mask_from=config.clat.mask_from,
        as_published=config.clat.as_published,
    )
