"""The networks of the paper: encoder g, classifier f, projection heads h^n.

Parameters are one tree: `encoder`, `classifier`, `projectors`.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from fof_jax.models import bag_vit, packed_views, vit
from fof_jax.types import Bag

PROJECTION_WIDTH = 64  # P6: the authors' shape


@flax.struct.dataclass
class Output:
    """What one view gives.

    Attributes:
      feature: v = g(x), the mean of all P tokens after the last LayerNorm (P7), or
        what `encoder.pooling` says.
      logits: f(v), J = K + 1: the grades and, last, the background c = K (P5).
    """

    feature: Float[Array, "B D"]
    logits: Float[Array, "B J"]


class Model(nn.Module):
    """f, g and h^n over one encoder.

    Attributes:
      encoder: g.
      num_classes: K.
      num_biomarkers: N; 0 leaves the projection heads out.
      cam_block: the block after which tokens are taken for Eq. (1), Python style:
        -1 is the last, -2 the last but one (P1).
      mask_token: True trains an embedding for masked patches (P4, `token`).
    """

    encoder: vit.ViT
    num_classes: int
    num_biomarkers: int
    cam_block: int = -2
    mask_token: bool = False

    def setup(self) -> None:
        """Declares f (with bias, K + 1 outputs) and h^n (without, P6)."""
        depth = self.encoder.size.depth
        if not -depth <= self.cam_block < 0:
            raise ValueError(
                f"cam.block: got {self.cam_block}, expected -{depth} … -1 for an "
                f"encoder of {depth} blocks (-2 is the last but one, P1)."
            )
        if self.encoder.pooling == "class_token" and self.cam_block == -1:
            raise ValueError(
                "cam.block: after the last block the class token alone is read, so no "
                "patch has a gradient. Pass --config.cam.block=-2 or "
                "--config.pooling=patches."
            )
        self.classifier = nn.Dense(self.num_classes + 1, dtype=jnp.float32)
        if self.num_biomarkers:
            self.projectors = self.param(
                "projectors",
                nn.initializers.lecun_normal(batch_axis=0),
                (self.num_biomarkers, self.encoder.size.width, PROJECTION_WIDTH),
                jnp.float32,
            )
        if self.mask_token:
            init, width = nn.initializers.normal(0.02), self.encoder.size.width
            self.token = self.param("mask_token", init, (width,), jnp.float32)

    def head(self, image: Float[Array, "B H W C"] | Bag) -> Float[Array, "B T D"]:
        """Image to the tokens of Eq. (1): embedding and the blocks up to it.

        T = A + P: v is the last P of them; the paper's encoder has none ahead.
        """
        tokens = self._place(self.encoder.embed(image), image)
        segments = bag_vit.segments_of(bag_vit.valid_of(image))
        return self.encoder.run(tokens, 0, self._split, segments=segments)

    def tail(
        self, tokens: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None
    ) -> Output:
        """The tokens of Eq. (1) to feature and logits: the remaining blocks.

        Args:
          tokens: of `head`.
          valid: of the bag; None for images.
        """
        segments = bag_vit.segments_of(valid)
        tokens = self.encoder.run(tokens, self._split, segments=segments)
        return self.classify(tokens, valid)

    def __call__(self, image: Float[Array, "B H W C"] | Bag) -> Output:
        """The whole network, f . g."""
        return self._encode(self.encoder.embed(image), image)

    def masked(
        self, image: Float[Array, "B H W C"] | Bag, keep: Bool[Array, "B h w"]
    ) -> Output:
        """The whole network on the kept patches, the mask token for the others (P4)."""
        tokens = self.encoder.embed(image)
        kept = keep.reshape(keep.shape[0], -1, 1)
        tokens = jnp.where(kept, tokens, self.token.astype(tokens.dtype)[None, None])
        return self._encode(tokens, image)

    def masked_bag(
        self, bag: Bag, blank: Float[Array, "B 1 C"], keep: Bool[Array, "2*B T"]
    ) -> Output:
        """Both views of a bag, with features of masked patches replaced (P4).

        A patch of a bag is a token, so that M needs no enlarged map. The embedding is
        linear, so that M may choose between embedded features: each is embedded once.

        Args:
          bag: x_glb.
          blank: feature that stands in masked patches.
          keep: patches that the positive views show, then those that the negative do.
        """
        shown, hidden = (
            self.encoder.embed(dataclasses.replace(bag, features=features))
            for features in (bag.features, blank)
        )
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), (bag, shown, hidden))
        both, shown, hidden = twice
        return self._encode(jnp.where(keep[..., None], shown, hidden), both)

    def packed(
        self, image: Float[Array, "B H W C"] | Bag, keep: Bool[Array, "B h w"]
    ) -> Output:
        """Both views without their hidden patches, as one sequence (P4, `drop`).

        Returns:
          B rows of the positive view, then B of the negative one.
        """
        prefix, kept = self.encoder.num_prefix, keep.reshape(keep.shape[0], -1)
        tokens = self._place(self.encoder.embed(image), image)
        tokens, segments = packed_views.pack(
            tokens, kept, num_prefix=prefix, valid=bag_vit.valid_of(image)
        )
        tokens = self.encoder.run(tokens, segments=segments)
        features = packed_views.pool(
            self.encoder.final_norm(tokens),
            segments,
            num_prefix=prefix,
            pooling=self.encoder.pooling,
        )
        feature = jnp.concatenate(features)  # [2 B, D]
        return Output(feature=feature, logits=self.classifier(feature))

    def classify(
        self, tokens: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None
    ) -> Output:
        """Tokens after the last block to feature and logits."""
        feature = self.encoder.pool(self.encoder.final_norm(tokens), valid)  # P7
        return Output(feature=feature, logits=self.classifier(feature))

    def project(self, feature: Float[Array, "R D"]) -> Float[Array, "N R E"]:
        """h^n(v) for every biomarker n: Linear without bias, then ReLU (P6)."""
        if not self.num_biomarkers:
            return jnp.zeros((0, feature.shape[0], PROJECTION_WIDTH))
        return jax.nn.relu(jnp.einsum("rd,nde->nre", feature, self.projectors))

    def initialise(self, image: Float[Array, "B H W C"] | Bag) -> Float[Array, "N B E"]:
        """Touches every parameter once; only for `init`."""
        return self.project(self(image).feature)

    def _place(self, tokens: jax.Array, image: Any) -> jax.Array:
        """Embedded patches to the input of block 0."""
        return self.encoder.add_position(tokens, bag_vit.bag_of(image))

    def _encode(self, tokens: jax.Array, image: Any) -> Output:
        """Embedded patches to feature and logits, through all blocks."""
        valid = bag_vit.valid_of(image)
        segments = bag_vit.segments_of(valid)
        tokens = self.encoder.run(self._place(tokens, image), segments=segments)
        return self.classify(tokens, valid)

    @property
    def _split(self) -> int:
        return self.encoder.size.depth + self.cam_block + 1
