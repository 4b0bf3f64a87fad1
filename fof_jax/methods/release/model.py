"""The networks of the authors' code: encoder, two classifiers, projection heads.

Parameters are one tree, `model` and `local_projectors`; a second set of projection
heads, the moving average `global_projectors`, is state.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from fof_jax.models import vit

PROJECTION_WIDTH = 64
EXTRA_LOCAL_CLASSES = 10  # Q14


def _uniform(fan_in: int):
    """PyTorch's default for a Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


@flax.struct.dataclass
class Output:
    """What one view gives.

    Attributes:
      feature: v, the mean of tokens 1 … P-1 after the last LayerNorm (Q15).
      global_logits: s_glb, K classes; the head that predicts.
      local_logits: s_loc, K + 10 classes; the head of the masked views (Q14).
    """

    feature: Float[Array, "B D"]
    global_logits: Float[Array, "B K"]
    local_logits: Float[Array, "B L"]


class Model(nn.Module):
    """The encoder, a learned mask token, and two linear heads.

    Attributes:
      encoder: g.
      num_classes: K.
      cam_block: the block whose output the focus map is taken from, Python style; -2
        is the last but one (Q7).
    """

    encoder: vit.ViT
    num_classes: int
    cam_block: int = -2

    def setup(self) -> None:
        """Declares the mask token and both heads."""
        depth, width = self.encoder.size.depth, self.encoder.size.width
        if not -depth <= self.cam_block < 0:
            raise ValueError(
                f"cam.block: got {self.cam_block}, expected -{depth} … -1 for an "
                f"encoder of {depth} blocks (-2 is the last but one)."
            )
        if self.encoder.num_prefix:
            raise ValueError(
                f"encoder: it has {self.encoder.num_prefix} tokens ahead of the "
                "patches, the authors' code none: its token 0 is a patch (15). Pass "
                "--config.init.class_token=drop and an encoder without registers."
            )
        self.mask_token = self.param("mask_token", nn.initializers.zeros, (width,))
        # Q14: one head for the whole image, another for the masked views.
        self.global_classifier = self._linear(self.num_classes)
        self.local_classifier = self._linear(self.num_classes + EXTRA_LOCAL_CLASSES)

    def embed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B P D"]:
        """Patch embeddings, before masking and position."""
        return self.encoder.embed(image)

    def mask(
        self, embedded: Float[Array, "B P D"], hide: Bool[Array, "B h w"]
    ) -> Float[Array, "B P D"]:
        """Replaces the embeddings of hidden patches by the mask token (Q8).

        The token is added its position like any other, takes part in attention and is
        averaged into the feature.
        """
        hide = hide.reshape(hide.shape[0], -1, 1)  # [B, P, 1]
        token = self.mask_token.astype(embedded.dtype)[None, None]
        return jnp.where(hide, token, embedded)  # Q8

    def head(self, embedded: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Patch embeddings to the residual stream after `cam_block`."""
        return self.encoder.run(self.encoder.add_position(embedded), 0, self._split)

    def tail(self, tokens: Float[Array, "B P D"]) -> Output:
        """That stream to feature and logits: the remaining blocks and the heads."""
        return self.classify(self.encoder.run(tokens, self._split))

    def classify(self, tokens: Float[Array, "B P D"]) -> Output:
        """Tokens after the last block to feature and logits."""
        tokens = self.encoder.final_norm(tokens)
        # Q15: there is no class token, so a real patch is left out.
        feature = tokens[:, 1:].mean(axis=1)
        return Output(
            feature=feature,
            global_logits=self.global_classifier(feature),
            local_logits=self.local_classifier(feature),
        )

    def __call__(self, image: Float[Array, "B H W C"]) -> Output:
        """The whole network on an image without mask."""
        return self.tail(self.head(self.embed(image)))

    @property
    def _split(self) -> int:
        return self.encoder.size.depth + self.cam_block + 1  # Q7

    def _linear(self, features: int) -> nn.Dense:
        init = _uniform(self.encoder.size.width)
        return nn.Dense(features, dtype=jnp.float32, kernel_init=init, bias_init=init)


@flax.struct.dataclass
class Projection:
    """A view in the spaces of the region loss and of the discrete genes."""

    region: Float[Array, "B E"]
    gene: Float[Array, "N B E"]


class Projectors(nn.Module):
    """The projection heads; their weights exist twice, trained and averaged (Q21).

    Attributes:
      num_biomarkers: N.
    """

    num_biomarkers: int

    @nn.compact
    def __call__(self, feature: Float[Array, "B D"]) -> Projection:
        """Region: Linear, ReLU, Linear to 64. Gene n: Linear to 64, ReLU (Q26)."""
        width = feature.shape[1]
        init = _uniform(width)
        hidden = self.param("region_in", init, (width, width))
        out = self.param("region_out", init, (width, PROJECTION_WIDTH))
        shape = (self.num_biomarkers, width, PROJECTION_WIDTH)
        gene = self.param("gene", init, shape)
        return Projection(
            region=jax.nn.relu(feature @ hidden) @ out,
            gene=jax.nn.relu(jnp.einsum("bd,nde->nbe", feature, gene)),
        )
