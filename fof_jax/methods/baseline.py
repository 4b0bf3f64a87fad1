"""The row "Baseline" of Table I: a ViT, cross-entropy on the whole image, no more."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.base import Gather
from fof_jax.methods.paper import cam, losses, views
from fof_jax.models import vit
from fof_jax.types import Aux, Batch, State, Variables


class Model(nn.Module):
    """Encoder and a linear classifier with K outputs on what the encoder pools."""

    encoder: vit.ViT
    num_classes: int
    cam_block: int

    def setup(self) -> None:
        """Declares the classifier."""
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
        """Image to the tokens from which `explain` takes its map."""
        tokens = self.encoder.add_position(self.encoder.embed(image))
        return self.encoder.run(tokens, 0, self._split)

    def tail(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B K"]:
        """Those tokens to logits."""
        return self.classifier(self._pool(tokens))

    def feature(self, image: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Image to the pooled token."""
        return self._pool(self.head(image))

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Image to logits."""
        return self.tail(self.head(image))

    def _pool(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        tokens = self.encoder.final_norm(self.encoder.run(tokens, self._split))
        return self.encoder.pool(tokens)

    @property
    def _split(self) -> int:
        return self.encoder.size.depth + self.cam_block + 1


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Cross-entropy on the global view; maps by Eq. 1-2, for comparison with FoF.

    Attributes:
      network: encoder and classifier.
      theta: threshold of the mask that `keep` shows; training never sees it.
    """

    network: Model
    theta: float

    test_inputs: ClassVar[tuple[str, ...]] = ("image",)
    colour_views: ClassVar[int] = 1

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Random parameters, no state."""
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        return Variables(params=self.network.init(key, image)["params"], state={})

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, *, gather: Gather
    ) -> tuple[Float[Array, ""], Aux]:
        """Mean cross-entropy of the global batch."""
        del key
        logits = gather(self.predict(variables, batch.image))
        grade, weight = jax.tree.map(gather, (batch.grade, batch.weight))
        value = losses.cross_entropy(logits, grade, weight)
        return value, Aux(metrics={"total": value}, state=variables.state)

    def after_update(self, variables: Variables, step: Int[Array, ""]) -> State:
        """Nothing to carry along."""
        del step
        return variables.state

    def predict(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B K"]:
        """Logits of the K grades."""
        return self._apply(variables, image, "__call__")

    def feature(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B D"]:
        """The pooled token, which is classified."""
        return self._apply(variables, image, "feature")

    def explain(
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
            return self._apply(variables, whole, "tail")

        return cam.class_activation_map(
            logits_of=logits_of,
            tokens=patches,
            target=target,
            grid=self.network.encoder.grid,
            image_size=self.network.encoder.image_size,
        ).A

    def keep(self, A: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """The paper's M for a map."""
        return views.keep_mask(A, patch=self.network.encoder.patch, theta=self.theta)

    def _apply(self, variables: Variables, argument: jax.Array, method: str) -> Any:
        return self.network.apply({"params": variables.params}, argument, method=method)


def build(
    *, encoder: vit.ViT, num_classes: int, cam_block: int, theta: float
) -> Baseline:
    """The method from plain numbers."""
    return Baseline(
        network=Model(encoder=encoder, num_classes=num_classes, cam_block=cam_block),
        theta=theta,
    )
