"""Pre-LN Vision Transformer without a head: the image encoder g.

The paper's encoder has patch tokens only. Pretrained encoders may have a class token
and registers, which are prepended to the patches, LayerScale, and a gated MLP.

The blocks' parameters are stacked along a leading layer axis and run by `lax.scan`: XLA
then honors the rematerialization policy and compiles one block instead of twelve, and
the forward pass can be split at any block by slicing the stack. The class activation
map uses the split to differentiate the last blocks only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from fof_jax.models import attention
from fof_jax.models.vit_block import KERNEL_INIT, apply_to_rows
from fof_jax.models.vit_block import Block as Block
from fof_jax.models.vit_variants import SIZES as SIZES
from fof_jax.models.vit_variants import Size as Size
from fof_jax.models.vit_variants import parse_variant as parse_variant
from fof_jax.types import Bag, Params

# Names of the activations of a block that each policy saves; see `ViT.remat`.
_SAVED = {
    "attention": attention.SAVED_NAMES,
    "output": attention.OUTPUT_NAMES,
    "block": (),
}
REMAT_POLICIES = ("none", *_SAVED)
POOLINGS = ("patches", "class_token")
POSITION_INIT = nn.initializers.truncated_normal(0.02)


def grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Patch grid h x w of an image size.

    Raises:
      ValueError: a side is not a multiple of the patch size.
    """
    if image_size[0] % patch or image_size[1] % patch or min(image_size) < patch:
        raise ValueError(
            f"image_size: {image_size[0]} x {image_size[1]} pixels do not divide into "
            f"patches of {patch}. Pass sides that are multiples of {patch}, e.g. "
            f"--config.data.image_size={max(image_size[0] // patch, 1) * patch}."
        )
    return image_size[0] // patch, image_size[1] // patch


def valid_mean(
    tokens: Float[Array, "B T D"], valid: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Mean over the valid tokens; 0, without a gradient, where there are none."""
    count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
    return jnp.where(valid[..., None], tokens, 0).sum(axis=1) / count


class ViT(nn.Module):
    """Vision Transformer: patch and position embedding, blocks, final LayerNorm.

    Attributes:
      size: width, depth, heads, MLP width.
      patch: side p of a patch in pixels.
      image_size: H, W; both multiples of p.
      layer_norm_eps: epsilon of every LayerNorm (P10; imported weights set theirs).
      compute_dtype: dtype of activations; parameters and LayerNorm statistics stay
        float32.
      implementation: attention implementation, see `attention.select_implementation`.
      remat: activations of a block that are saved for the backward pass: "none"
        saves all, "attention" q, k, v, o and the log-sum-exp, "output" o and the
        log-sum-exp, "block" the input of the block only.
      unroll: blocks per loop iteration; `depth` removes the loop. A small encoder is
        then faster on a CPU, whose loop copies what the backward pass reads.
      class_token: whether a class token is prepended. It is not counted in P; its
        position embedding is added into the parameter.
      pooling: output of `pool`, one of `POOLINGS`.
      frozen_blocks: number of first blocks that are not trained, together with the
        embeddings; no gradient is computed for them.
    """

    size: Size
    patch: int
    image_size: tuple[int, int]
    layer_norm_eps: float = 1e-6
    compute_dtype: Any = jnp.float32
    implementation: str = "auto"
    remat: str = "attention"
    unroll: int = 1
    class_token: bool = False
    pooling: str = "patches"
    frozen_blocks: int = 0

    def setup(self) -> None:
        """Declares the parameters; those of the blocks have a leading layer axis."""
        self._check_fields()
        h, w = grid(self.image_size, self.patch)
        self.embedding = nn.Dense(
            self.size.width, dtype=self.compute_dtype, kernel_init=KERNEL_INIT
        )
        self.position = self.param(
            "position", POSITION_INIT, (h * w, self.size.width), jnp.float32
        )
        if self.num_prefix:
            shape = (self.num_prefix, self.size.width)
            self.ahead = self.param("ahead", POSITION_INIT, shape, jnp.float32)
        # Flax would trace the initialization to compare shapes, as each block does.
        known = self.has_variable("params", "blocks")
        self.blocks = (
            self.get_variable("params", "blocks")
            if known
            else self.param("blocks", self._init_blocks)
        )
        self.norm = nn.LayerNorm(
            epsilon=self.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid h x w."""
        return grid(self.image_size, self.patch)

    @property
    def num_prefix(self) -> int:
        """A, the number of prepended tokens: the class token, then the registers."""
        return int(self.class_token) + self.size.registers

    def embed(self, image: Float[Array, "B H W C"] | Bag) -> Float[Array, "B P D"]:
        """Linear patch embedding, row-major, without position embedding."""
        if isinstance(image, Bag):
            raise ValueError(
                "encoder: got a bag of features, expected an image. Pass an encoder of "
                "features, --config.encoder=SIZE/features."
            )
        b, height, width, c = image.shape
        if (height, width) != tuple(self.image_size):
            raise ValueError(
                f"encoder: got an image of {height} x {width} pixels, expected "
                f"{self.image_size[0]} x {self.image_size[1]}. Resize the image, or "
                "build the encoder for its size."
            )
        h, w = self.grid
        p = self.patch
        x = image.reshape(b, h, p, w, p, c).transpose(0, 1, 3, 2, 4, 5)
        return apply_to_rows(self.embedding, x.reshape(b, h * w, p * p * c))

    def add_position(
        self, tokens: Float[Array, "B P D"], bag: Bag | None = None
    ) -> Float[Array, "B T D"]:
        """Adds positions and prepends A tokens: input of block 0, T = A + P tokens.

        Args:
          tokens: of `embed`.
          bag: of encoders whose patches have coordinates; None for images.
        """
        del bag
        x = tokens + self.position.astype(tokens.dtype)[None]
        if self.num_prefix:
            shape = (x.shape[0], *self.ahead.shape)
            prefix = jnp.broadcast_to(self.ahead.astype(x.dtype), shape)
            x = jnp.concatenate([prefix, x], axis=1)  # [B, A + P, D]
        return lax.stop_gradient(x) if self.frozen_blocks else x

    def run(
        self,
        tokens: Float[Array, "B T D"],
        first: int = 0,
        last: int | None = None,
        *,
        segments: attention.Segments = None,
    ) -> Float[Array, "B T D"]:
        """Runs blocks first … last - 1; the result does not depend on the split."""
        if first < self.frozen_blocks:
            # Only the parameters: Eq. (1) may still differentiate the tokens.
            end = self.frozen_blocks if last is None else min(self.frozen_blocks, last)
            frozen = jax.tree.map(lambda a: a[first:end], self.blocks)
            tokens = self._scan(tokens, lax.stop_gradient(frozen), segments)
            first = end
        rest = jax.tree.map(lambda a: a[first:last], self.blocks)
        return self._scan(tokens, rest, segments)

    def _scan(
        self, tokens: Float[Array, "B T D"], stack: Params, segments: Any
    ) -> jax.Array:
        block = self._block(self.implementation)

        def step(x: jax.Array, layer: Params) -> tuple[Any, None]:
            return block.apply({"params": layer}, x, segments), None

        if self.remat not in REMAT_POLICIES:
            raise ValueError(
                f"remat: {self.remat!r} is not a policy. Expected one of "
                f"{', '.join(REMAT_POLICIES)}."
            )
        if self.remat != "none":
            policy = jax.checkpoint_policies.save_only_these_names(*_SAVED[self.remat])
            step = jax.checkpoint(step, policy=policy, prevent_cse=False)
        return lax.scan(step, tokens, stack, unroll=self.unroll)[0]

    def run_attending(
        self,
        tokens: Float[Array, "B T D"],
        attend: Sequence[Callable[..., jax.Array]],
        first: int = 0,
    ) -> Float[Array, "B T D"]:
        """The blocks from `first` on, each with its own function for its attention."""
        for layer, function in enumerate(attend, first):
            block = self._block("naive").clone(attend=function)
            params = jax.tree.map(lambda a, layer=layer: a[layer], self.blocks)
            tokens = jnp.asarray(block.apply({"params": params}, tokens))
        return tokens

    def final_norm(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Final LayerNorm, in float32; pooling is up to the caller."""
        return self.norm(tokens)

    def pool(
        self, tokens: Float[Array, "B T D"], valid: Bool[Array, "B P"] | None = None
    ) -> Float[Array, "B D"]:
        """Pools normalized tokens: mean of the P patches (P7), or the class token.

        Args:
          tokens: of `final_norm`.
          valid: patches that the mean is taken over; None for all.
        """
        if self.pooling == "class_token":
            return tokens[:, 0]
        patches = tokens[:, self.num_prefix :]
        if valid is None:
            return patches.mean(axis=1)
        return valid_mean(patches, valid)

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B T D"]:
        """Encodes images to normalized tokens, without pooling."""
        return self.final_norm(self.run(self.add_position(self.embed(image))))

    def _block(self, implementation: str) -> Block:
        return Block(
            heads=self.size.heads,
            mlp=self.size.mlp,
            layer_norm_eps=self.layer_norm_eps,
            compute_dtype=self.compute_dtype,
            implementation=implementation,
            layer_scale=self.size.layer_scale,
            swiglu=self.size.swiglu,
            parent=None,
        )

    def _init_blocks(self, key: jax.Array) -> Params:
        example = jnp.zeros((1, 1, self.size.width))
        keys = jax.random.split(key, self.size.depth)
        block = self._block("naive")  # one token: a fused kernel does not pay off
        return jax.vmap(lambda k: block.init(k, example)["params"])(keys)

    def _check_fields(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: unknown value {self.pooling!r}. Expected one of "
                f"{', '.join(POOLINGS)}."
            )
        if self.pooling == "class_token" and not self.class_token:
            raise ValueError(
                "pooling: 'class_token', but the encoder has no class token. Pass "
                "--config.init.class_token=keep, or --config.pooling=patches."
            )
        if not 0 <= self.frozen_blocks <= self.size.depth:
            raise ValueError(
                f"optimizer.freeze_blocks: got {self.frozen_blocks}, expected 0 … "
                f"{self.size.depth}, the number of blocks."
            )
