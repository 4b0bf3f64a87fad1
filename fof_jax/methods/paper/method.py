"""Focus on Focus as published: three views, Eq. (1)-(6), as a Method."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods.base import FixedState, Inputs, example_input, network_input
from fof_jax.methods.encoder import modality
from fof_jax.methods.paper import (
    cam,
    encoder_cam,
    losses,
    masked_views,
    model,
    options,
    views,
)
from fof_jax.models import bag_vit
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


@dataclasses.dataclass(frozen=True)
class FocusOnFocus(FixedState):
    """The paper's method.

    Attributes:
      network: f, g and h^n.
      theta: threshold of Eq. (2).
      tau: temperature of Eq. (4) and (5).
      lambda_frl, lambda_mca: weights of Eq. (6).
      normalize_positives: see `losses.alignment`.
      frl: False is the row "FoF w/o FRL" of Table I: no masks, no positive and
        negative views, cross-entropy and Eq. (5) on the global view alone.
      scale: of A, see `cam.class_activation_map` (P3).
      fill: of masked patches, one of `views.FILLS` (P4).
      target: whose evidence Eq. (1) seeks in training: the grade's (Sec. III-B), or
        that of the class predicted from x_glb, so that M does not know the grade.
      lambda_pos, lambda_neg: see `losses.classification`.
      warmup: fraction of the training in which w grows linearly from 0 to 1; the loss
        is w times Eq. (6) plus 1 - w times that without FRL. 0: w is 1.
    """

    network: model.Model
    theta: float
    tau: float
    lambda_frl: float
    lambda_mca: float
    normalize_positives: bool
    frl: bool
    scale: str = "minmax"
    fill: str = "zero"
    target: str = "grade"
    lambda_pos: float = 1.0
    lambda_neg: float = 1.0
    warmup: float = 0.0

    @property
    def inputs(self) -> Inputs:
        """Images or bags, as the encoder reads; biomarkers in training."""
        read = modality(self.network.encoder)
        return Inputs(train=(read, "biomarkers"), test=(read,))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters; the paper's method has no state."""
        example = example_input(batch)
        params = self.network.init(key, example, method="initialise")["params"]
        return Variables(params=params, state={}, frozen=frozen)

    def views(self, variables: Variables, batch: Batch) -> masked_views.Views:
        """Global forward, Eq. (1), Eq. (2), and one forward of both masked views."""
        image = network_input(batch)
        valid = bag_vit.valid_of(image)
        tokens = self._apply(variables, image, method="head")
        glb = self._apply(variables, tokens, valid, method="tail")
        sought = batch.grade
        if self.target == "predicted":
            sought = glb.logits[:, : self.num_classes].argmax(axis=1)
        activation = self._activation(variables, tokens, sought, valid)
        keep = self.patch_mask(activation.A)
        pos, neg = masked_views.forward(
            lambda *a, method: self._apply(variables, *a, method=method),
            image,
            keep,
            fill=self.fill,
            patch=self.network.encoder.patch,
        )
        return masked_views.Views(
            tokens=tokens,
            activation=activation,
            keep=keep,
            kept=masked_views.kept_fraction(keep, valid),
            glb=glb,
            pos=pos,
            neg=neg,
        )

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Eq. (3)-(6) on the global batch; see `Method.loss`."""
        labels = jax.tree.map(
            ctx.gather, (batch.grade, batch.biomarkers, batch.known, batch.weight)
        )
        if self.frl:
            three = self.views(variables, batch)
            glb, pos, neg, kept = jax.tree.map(
                ctx.gather, (three.glb, three.pos, three.neg, three.kept)
            )
            value, terms = self.terms(variables, glb, pos, neg, *labels)
            terms["kept"] = kept.mean()
            if self.warmup:
                without, _ = self.terms_without_frl(variables, glb, *labels)
                w = jnp.clip(ctx.progress / self.warmup, 0.0, 1.0)
                value = (1 - w) * without + w * value
                terms |= {"total": value, "views_weight": w}
        else:
            glb = self._apply(variables, network_input(batch), method="__call__")
            glb = jax.tree.map(ctx.gather, glb)
            value, terms = self.terms_without_frl(variables, glb, *labels)
        return value, LossOutput(metrics=terms, state=variables.state)

    def terms(
        self,
        variables: Variables,
        glb: model.Output,
        pos: model.Output,
        neg: model.Output,
        grade: Int[Array, " B"],
        biomarkers: Int[Array, "B N"],
        known: Bool[Array, "B N"],
        weight: Float[Array, " B"] | None,
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """L of Eq. (6) and its terms, from the views of the global batch."""
        terms = losses.classification(
            glb=glb.logits,
            pos=pos.logits,
            neg=neg.logits,
            grade=grade,
            background=self.num_classes,
            weight=weight,
            lambda_pos=self.lambda_pos,
            lambda_neg=self.lambda_neg,
        )
        terms["frl"] = losses.focus_consistency(
            glb=glb.feature, pos=pos.feature, neg=neg.feature, tau=self.tau
        )
        # Sec. III-C: the negative view is labelled normal, which is always known.
        status = jnp.concatenate([biomarkers, biomarkers, jnp.zeros_like(biomarkers)])
        known = jnp.concatenate([known, known, jnp.ones_like(known)])
        feature = jnp.concatenate([glb.feature, pos.feature, neg.feature])
        return self._total(variables, terms, feature, status, known)

    def terms_without_frl(
        self,
        variables: Variables,
        glb: model.Output,
        grade: Int[Array, " B"],
        biomarkers: Int[Array, "B N"],
        known: Bool[Array, "B N"],
        weight: Float[Array, " B"] | None,
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """The same for "FoF w/o FRL": global view alone, Eq. (5) on its B rows."""
        cls = losses.cross_entropy(glb.logits, grade, weight)
        terms = {"cls_glb": cls, "cls": cls, "frl": jnp.zeros(())}
        return self._total(variables, terms, glb.feature, biomarkers, known)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """v = g(x_glb) (P7) and f(v) without the background class (P5)."""
        glb = self._apply(variables, network_input(batch), method="__call__")
        return Output(features=glb.feature, logits=glb.logits[:, : self.num_classes])

    def class_activation_map(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """A of Eq. (1) for any class."""
        tokens = self._apply(variables, image, method="head")
        return self._activation(variables, tokens, target).A

    def bag_map(
        self, variables: Variables, bag: Bag, target: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        """A of Eq. (1) for any class, over the patches of a bag."""
        tokens = self._apply(variables, bag, method="head")
        return self._activation(variables, tokens, target, bag.valid).A[..., 0]

    def patch_mask(self, cam: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """M of Eq. (2); of a bag the map is [B, T, 1]."""
        return views.keep_mask(cam, patch=self.network.encoder.patch, theta=self.theta)

    def vit_classifier(self, variables: Variables) -> ViTClassifier:
        """Encoder, pooling and the logits of the K grades."""
        classify = functools.partial(self._apply, variables, method="classify")
        return ViTClassifier(
            encoder=self.network.encoder,
            params=variables.params["encoder"],
            logits_of=lambda tokens: classify(tokens).logits[:, : self.num_classes],
        )

    def biomarker_projections(
        self, variables: Variables, features: Float[Array, "R D"]
    ) -> Float[Array, "N R E"]:
        """h^n(v) of every biomarker, the space of Eq. (5)."""
        return self._apply(variables, features, method="project")

    def _apply(self, variables: Variables, *arguments: Any, method: str) -> Any:
        params = {"params": variables.params}
        return self.network.apply(params, *arguments, method=method)

    def _activation(
        self,
        variables: Variables,
        tokens: jax.Array,
        target: jax.Array,
        valid: jax.Array | None = None,
    ) -> cam.Activation:
        frozen, tokens = lax.stop_gradient((variables, tokens))
        return encoder_cam.activation(
            self.network.encoder,
            lambda v: self._apply(frozen, v, valid, method="tail").logits,
            tokens,
            target,
            valid=valid,
            scale=self.scale,
        )

    def _total(self, variables, terms, feature, status, known):
        """Adds Eq. (5), summed over the biomarkers, and Eq. (6) to the terms."""
        terms["mca"] = losses.alignment(
            projections=self.biomarker_projections(variables, feature),
            status=status,
            known=known,
            tau=self.tau,
            normalize_positives=self.normalize_positives,
        ).sum()
        terms["total"] = losses.total(
            cls=terms["cls"],
            frl=terms["frl"],
            mca=terms["mca"],
            lambda_frl=self.lambda_frl,
            lambda_mca=self.lambda_mca,
        )
        return terms["total"], terms


def build(config: ConfigDict, info: DatasetInfo) -> FocusOnFocus:
    """The method that a config describes; a ValueError as `options.view_options`."""
    return FocusOnFocus(
        network=options.network(config, info),
        theta=config.theta,
        tau=config.tau,
        lambda_frl=config.lambda_frl,
        lambda_mca=config.lambda_mca,
        normalize_positives=config.mca.normalize_positives,
        frl=config.frl,
        lambda_pos=config.lambda_pos,
        lambda_neg=config.lambda_neg,
        **options.view_options(config),
    )
