"""The authors' step as a Method: map, mask, three views, four losses, EMA heads."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.base import Inputs
from fof_jax.methods.release import labels, losses, model
from fof_jax.methods.release.averaging import averaged
from fof_jax.methods.release.cam import hide_mask
from fof_jax.methods.release.options import check, label_statistics
from fof_jax.methods.release.views import Reference, Views, apply, focus_map
from fof_jax.methods.release.views import make as make_views
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

Weight = float | Float[Array, ""]  # traced: one program serves several weights


@dataclasses.dataclass(frozen=True)
class Release:
    """The authors' method.

    Attributes:
      network: encoder, mask token, two heads.
      projectors: shape of the projection heads, of which there are two sets.
      theta: share of the map's maximum below which a patch is hidden (Q4, Q5).
      tau: temperature of the region and the discrete-gene loss.
      lambda_region, lambda_dis_gene, lambda_float_gene, lambda_neg: weights.
      ema_decay: largest decay of the averaged projection heads.
      world_size_emulated: number of processes of the run that is reproduced. It
        decides which rows float-gene guidance glues (Q30) and divides the gradients of
        all terms but cross-entropy (Q32), whatever the real number of devices.
      label_transform, label_means, label_stds: see `labels.transform` (Q27).
    """

    network: model.Model
    projectors: model.Projectors
    theta: float
    tau: float
    lambda_region: Weight
    lambda_dis_gene: Weight
    lambda_float_gene: Weight
    lambda_neg: Weight
    ema_decay: float
    world_size_emulated: int
    label_transform: str
    label_means: tuple[float, ...]
    label_stds: tuple[float, ...]

    inputs: ClassVar[Inputs] = Inputs(
        train=("image", "biomarkers", "floats"), test=("image",), second_view="color"
    )

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Random parameters; the averaged heads are a draw of their own (Q22)."""
        keys = jax.random.split(key, 3)
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        feature = jnp.zeros((1, self.network.encoder.size.width))
        local = self.projectors.init(keys[1], feature)["params"]
        average = self.projectors.init(keys[2], feature)["params"]  # Q22
        return Variables(
            params={
                "model": self.network.init(keys[0], image)["params"],
                "local_projectors": local,
            },
            state={"global_projectors": average},
            frozen=frozen,
        )

    def views(
        self, variables: Variables, batch: Batch, reference: Reference = None
    ) -> Views:
        """The three views of a batch; see `views.make`."""
        params, theta = variables.params["model"], self.theta
        return make_views(self.network, params, batch, theta=theta, reference=reference)

    def loss(
        self,
        variables: Variables,
        batch: Batch,
        ctx: StepContext,
        *,
        reference: Reference = None,
    ) -> tuple[Float[Array, ""], LossOutput]:
        """The weighted sum of all terms on the global batch; see `Method.loss`.

        `batch.known` is not read: the authors' data have no gaps, markers being
        imputed upstream (item 28). An unknown marker counts with the value stored.
        """
        three = self.views(variables, batch, reference)
        glb, pos, neg, hide = jax.tree.map(
            ctx.gather, (three.glb, three.pos, three.neg, three.hide)
        )
        value, terms = self.terms(
            variables,
            glb,
            pos,
            neg,
            ctx.gather(batch.grade),
            ctx.gather(batch.biomarkers),
            ctx.gather(batch.floats),
        )
        # Item 40: their "pos_ratio" is the share of hidden patches; this is not.
        terms["kept"] = (~hide).mean(dtype=jnp.float32)
        return value, LossOutput(metrics=terms, state=variables.state)

    def terms(
        self,
        variables: Variables,
        glb: model.Output,
        pos: model.Output,
        neg: model.Output,
        grade: Int[Array, " B"],
        biomarkers: Int[Array, "B N"],
        floats: Float[Array, "B F"],
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """The total and its terms, unweighted, from the views of the global batch.

        Raises:
          ValueError: `world_size_emulated` does not divide the batch.
        """
        if grade.shape[0] % self.world_size_emulated:
            raise ValueError(
                f"world_size_emulated: {self.world_size_emulated} processes cannot "
                f"share a batch of {grade.shape[0]}. Pass a divisor of batch_size."
            )
        # Q14: K outputs for the whole image, K + 10 for the parts, of which the
        # negative view's target is number K.
        background = jnp.full_like(grade, self.num_classes)
        terms = {
            "global_cls": losses.cross_entropy(glb.global_logits, grade),
            "pos_cls": losses.cross_entropy(pos.local_logits, grade),
            "neg_cls": losses.cross_entropy(neg.local_logits, background),
        }
        guided = self._guided(variables, glb, pos, neg, biomarkers, floats)
        weights = {
            "region": self.lambda_region,
            "dis_gene": self.lambda_dis_gene,
            "float_gene": self.lambda_float_gene,
        }
        total = terms["global_cls"] + terms["pos_cls"]
        total += self.lambda_neg * terms["neg_cls"]  # Q31
        for name, term in guided.items():
            # Q32: each process keeps the gradient of its own rows, and the mean over
            # processes is taken of that.
            term = losses.scale_gradient(term, 1 / self.world_size_emulated)
            total += weights[name] * term
        return total, terms | guided | {"total": total}

    def project(
        self, variables: Variables, glb: jax.Array, pos: jax.Array, neg: jax.Array
    ) -> tuple[model.Projection, model.Projection, model.Projection]:
        """Projections of three features [B, D]: the global one by the averaged heads.

        Those are frozen, but the gradient flows through them into the feature.
        """
        average = lax.stop_gradient(variables.state["global_projectors"])
        local = variables.params["local_projectors"]

        def by(heads: Params, feature: jax.Array) -> Any:
            return self.projectors.apply({"params": heads}, feature)

        # Q21 Q26: two sets of heads, whose outputs are compared.
        return by(average, glb), by(local, pos), by(local, neg)

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The averaged heads after optimizer step `step`; see `averaged`."""
        return averaged(variables, step, decay=self.ema_decay)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Mean of the tokens (Q15) and logits of the global head (Q14)."""
        whole = apply(self.network, variables.params["model"], batch.image)
        return Output(features=whole.feature, logits=whole.global_logits)

    def class_activation_map(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """A of any class (item 50: the authors draw it for the true one)."""
        params = variables.params["model"]
        tokens = apply(self.network, params, image, method="embed")
        tokens = apply(self.network, params, tokens, method="head")
        return focus_map(self.network, params, tokens, target).A

    def patch_mask(self, cam: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """The patches that the positive view shows."""
        hidden = hide_mask(cam, patch=self.network.encoder.patch, theta=self.theta)
        return ~hidden

    def vit_classifier(self, variables: Variables) -> ViTClassifier:
        """Encoder, mean of tokens 1 … P-1 (Q15) and the logits of the global head."""
        params = variables.params["model"]

        def logits_of(tokens: jax.Array) -> jax.Array:
            return apply(self.network, params, tokens, method="classify").global_logits

        return ViTClassifier(
            encoder=self.network.encoder,
            params=params["encoder"],
            logits_of=logits_of,
            first_pooled=1,  # Q15
        )

    def biomarker_projections(
        self, variables: Variables, features: Float[Array, "R D"]
    ) -> Float[Array, "N R E"]:
        """Features of whole images in the space of each gene: averaged heads (Q21)."""
        heads = {"params": variables.state["global_projectors"]}
        projection: Any = self.projectors.apply(heads, features)
        return projection.gene

    def _guided(
        self, variables, glb, pos, neg, biomarkers, floats
    ) -> dict[str, jax.Array]:
        """The terms beside cross-entropy; one without columns is 0."""
        g, p, n = self.project(variables, glb.feature, pos.feature, neg.feature)
        out = {
            "region": losses.region(
                glb=g.region, pos=p.region, neg=n.region, tau=self.tau
            ),
            "dis_gene": jnp.zeros(()),
            "float_gene": jnp.zeros(()),
        }
        if biomarkers.shape[1]:
            out["dis_gene"] = losses.discrete_genes(
                glb=g.gene,
                pos=p.gene,
                neg=n.gene,
                labels=labels.transform(
                    biomarkers,
                    name=self.label_transform,
                    means=self.label_means,
                    stds=self.label_stds,
                ),
                tau=self.tau,
            )
        if floats.shape[1]:
            ranks = self.world_size_emulated
            out["float_gene"] = losses.float_genes(
                losses.rank_rows(pos.feature, glb.feature, ranks=ranks),
                losses.rank_rows(floats, floats, ranks=ranks),
                batch=glb.feature.shape[0],
            )
        return out


def build(config: ConfigDict, info: DatasetInfo) -> Release:
    """The method that a config describes.

    Raises:
      ValueError: see `options`.
    """
    check(config, info)
    transform, means, stds = label_statistics(config, info)
    return Release(
        network=model.Model(
            encoder=encoder.build_vit(config),
            num_classes=len(info.classes),
            cam_block=config.cam.block,
        ),
        projectors=model.Projectors(num_biomarkers=len(info.biomarkers)),
        theta=config.theta,
        tau=config.tau,
        lambda_region=config.lambda_region,
        lambda_dis_gene=config.lambda_dis_gene,
        lambda_float_gene=config.lambda_float_gene,
        lambda_neg=config.lambda_neg,
        ema_decay=config.ema_decay,
        world_size_emulated=config.world_size_emulated,
        label_transform=transform,
        label_means=means,
        label_stds=stds,
    )
