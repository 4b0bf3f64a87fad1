"""Focus on Focus as published: three views, Eq. (1)-(6), as a Method."""

import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.base import Gather
from fof_jax.methods.paper import cam, losses, model, views
from fof_jax.models import vit
from fof_jax.types import Aux, Batch, State, Variables

TARGETS = ("grade", "predicted")


@flax.struct.dataclass
class Views:
    """The three views of a batch and how they came about.

    Attributes:
      tokens: v of Eq. (1); ahead of it, in encoders that have them, a class token
        and registers.
      activation: Eq. (1).
      keep: M of Eq. (2), True where the positive view keeps the patch.
      glb, pos, neg: feature and logits of each view.
    """

    tokens: Float[Array, "B T D"]
    activation: cam.Activation
    keep: Bool[Array, "B h w"]
    glb: model.Output
    pos: model.Output
    neg: model.Output


@dataclasses.dataclass(frozen=True)
class FocusOnFocus:
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

    test_inputs: ClassVar[tuple[str, ...]] = ("image",)
    colour_views: ClassVar[int] = 1

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Random parameters; the paper's method has no state."""
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        params = self.network.init(key, image, method="initialise")["params"]
        return Variables(params=params, state={})

    def views(self, variables: Variables, batch: Batch) -> Views:
        """Global forward, Eq. (1), Eq. (2), and one forward of both masked views."""
        tokens = self._apply(variables, batch.image, method="head")
        glb = self._apply(variables, tokens, method="tail")
        sought = batch.grade
        if self.target == "predicted":
            sought = glb.logits[:, : self.num_classes].argmax(axis=1)
        activation = self._activation(variables, tokens, sought)
        keep = self.keep(activation.A)
        both = self._masked(variables, batch.image, keep)
        b = batch.image.shape[0]
        return Views(
            tokens=tokens,
            activation=activation,
            keep=keep,
            glb=glb,
            pos=jax.tree.map(lambda a: a[:b], both),
            neg=jax.tree.map(lambda a: a[b:], both),
        )

    def _masked(
        self, variables: Variables, image: jax.Array, keep: jax.Array
    ) -> model.Output:
        """Both masked views in one forward: B positive rows, then B negative."""
        if self.fill == "token":
            twice, shown = jnp.concatenate([image] * 2), jnp.concatenate([keep, ~keep])
            return self._apply(variables, twice, shown, method="masked")
        patch = self.network.encoder.patch
        pos, neg = views.split(image, keep, patch=patch, fill=self.fill)
        return self._apply(variables, jnp.concatenate([pos, neg]), method="__call__")

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, *, gather: Gather
    ) -> tuple[Float[Array, ""], Aux]:
        """Eq. (3)-(6) on the global batch; see `Method.loss`."""
        del key  # nothing is drawn
        labels = jax.tree.map(
            gather, (batch.grade, batch.biomarkers, batch.known, batch.weight)
        )
        if self.frl:
            seen = self.views(variables, batch)
            glb, pos, neg, keep = jax.tree.map(
                gather, (seen.glb, seen.pos, seen.neg, seen.keep)
            )
            value, terms = self.terms(variables, glb, pos, neg, *labels)
            terms["kept"] = keep.mean(dtype=jnp.float32)
        else:
            glb = self._apply(variables, batch.image, method="__call__")
            glb = jax.tree.map(gather, glb)
            value, terms = self.terms_without_frl(variables, glb, *labels)
        return value, Aux(metrics=terms, state=variables.state)

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

    def mca(
        self,
        variables: Variables,
        feature: Float[Array, "R D"],
        status: Int[Array, "R N"],
        known: Bool[Array, "R N"],
    ) -> tuple[Float[Array, "N R E"], Float[Array, " N"]]:
        """Projections h^n(v) and Eq. (5) for every biomarker."""
        projections = self._apply(variables, feature, method="project")
        each = losses.alignment(
            projections=projections,
            status=status,
            known=known,
            tau=self.tau,
            normalize_positives=self.normalize_positives,
        )
        return projections, each

    def after_update(self, variables: Variables, step: Int[Array, ""]) -> State:
        """Nothing to carry along."""
        del step
        return variables.state

    def predict(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B K"]:
        """f(g(x_glb)), the background class left out (P5)."""
        return self._apply(variables, image, method="__call__").logits[
            :, : self.num_classes
        ]

    def feature(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B D"]:
        """v = g(x_glb), the mean of the tokens (P7)."""
        return self._apply(variables, image, method="__call__").feature

    def explain(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """A of Eq. (1) for any class."""
        tokens = self._apply(variables, image, method="head")
        return self._activation(variables, tokens, target).A

    def keep(self, A: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """M of Eq. (2)."""
        return views.keep_mask(A, patch=self.network.encoder.patch, theta=self.theta)

    def _apply(self, variables: Variables, *arguments: jax.Array, method: str) -> Any:
        params = {"params": variables.params}
        return self.network.apply(params, *arguments, method=method)

    def _activation(
        self, variables: Variables, tokens: jax.Array, target: jax.Array
    ) -> cam.Activation:
        frozen, tokens = lax.stop_gradient((variables, tokens))
        ahead, patches = jnp.split(tokens, [self.network.encoder.num_prefix], axis=1)

        def logits_of(v: jax.Array) -> jax.Array:
            whole = jnp.concatenate([ahead, v], axis=1)  # [B, T, D]
            return self._apply(frozen, whole, method="tail").logits

        return cam.class_activation_map(
            logits_of=logits_of,
            tokens=patches,
            target=target,
            grid=self.network.encoder.grid,
            image_size=self.network.encoder.image_size,
            scale=self.scale,
        )

    def _total(self, variables, terms, feature, status, known):
        each = self.mca(variables, feature, status, known)[1]
        terms["mca"] = each.sum()
        terms["total"] = losses.total(
            cls=terms["cls"],
            frl=terms["frl"],
            mca=terms["mca"],
            lambda_frl=self.lambda_frl,
            lambda_mca=self.lambda_mca,
        )
        return terms["total"], terms


def build(
    *,
    encoder: vit.ViT,
    num_classes: int,
    num_biomarkers: int,
    cam_block: int,
    theta: float,
    tau: float,
    lambda_frl: float,
    lambda_mca: float,
    mca_normalize_positives: bool,
    frl: bool,
    cam_scale: str = "minmax",
    views_fill: str = "zero",
    cam_target: str = "grade",
    lambda_pos: float = 1.0,
    lambda_neg: float = 1.0,
) -> FocusOnFocus:
    """The method from plain numbers; see `FocusOnFocus` and `model.Model`.

    Raises:
      ValueError: a scale, fill or target that does not exist.
    """
    _among("cam.scale", cam_scale, cam.SCALES)
    _among("views.fill", views_fill, views.FILLS)
    _among("cam.target", cam_target, TARGETS)
    return FocusOnFocus(
        network=model.Model(
            encoder=encoder,
            num_classes=num_classes,
            num_biomarkers=num_biomarkers,
            cam_block=cam_block,
            mask_token=frl and views_fill == "token",
        ),
        theta=theta,
        tau=tau,
        lambda_frl=lambda_frl,
        lambda_mca=lambda_mca,
        normalize_positives=mca_normalize_positives,
        frl=frl,
        scale=cam_scale,
        fill=views_fill,
        target=cam_target,
        lambda_pos=lambda_pos,
        lambda_neg=lambda_neg,
    )


def _among(field: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ValueError(
            f"{field}: got {value!r}, expected one of {', '.join(names)}. Pass another "
            f"--config.{field}."
        )
