"""The encoder g: a pre-LN Vision Transformer without head.

The paper's has patch tokens only. Encoders from elsewhere may bring a class token and
registers, which run ahead of the patches, LayerScale, and a gated MLP.

Blocks are one stack of parameters with a leading layer axis, run by `lax.scan`: XLA
then obeys the rematerialisation policy, compiles one block instead of twelve, and a
forward pass is split at any block by slicing the stack, which is how the class
activation map differentiates the tail only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from fof_jax.models import attention
from fof_jax.models.vit_variants import SIZES as SIZES
from fof_jax.models.vit_variants import Size as Size
from fof_jax.models.vit_variants import variant as variant
from fof_jax.types import Params

# What each policy keeps of a block besides its input, by name; see `ViT.remat`.
_KEPT = {
    "attention": attention.SAVED_NAMES,
    "output": attention.OUTPUT_NAMES,
    "block": (),
}
REMAT_POLICIES = ("none", *_KEPT)


POOLINGS = ("patches", "class_token")


def grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches, h x w.

    Raises:
      ValueError: a side is not a multiple of the patch.
    """
    if image_size[0] % patch or image_size[1] % patch or min(image_size) < patch:
        raise ValueError(
            f"image_size: {image_size[0]} x {image_size[1]} pixels do not divide into "
            f"patches of {patch}. Pass sides that are multiples of {patch}, e.g. "
            f"--config.data.image_size={max(image_size[0] // patch, 1) * patch}."
        )
    return image_size[0] // patch, image_size[1] // patch


def as_rows(
    layer: Callable[[Float[Array, "R D"]], Float[Array, "R E"]],
    x: Float[Array, "B T D"],
) -> Float[Array, "B T E"]:
    """A dense layer on the tokens of all images as the rows of one matrix.

    The same numbers. The gradient of the weight is then a sum over one axis, which XLA
    computes on CPU as a matrix product; over two it takes five times as long
    (docs/performance.md).
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


# Dosovitskiy et al. 2021: a fixed deviation of 0.02 starves narrow encoders.
_kernel_init = nn.initializers.xavier_uniform()
_position_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """LN, attention, residual; LN, MLP with exact GELU or SwiGLU, residual."""

    heads: int
    mlp: int
    layer_norm_eps: float
    compute_dtype: Any
    implementation: str
    layer_scale: bool = False
    swiglu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Residual stream in, residual stream out."""
        batch, length, width = x.shape
        head_width = width // self.heads

        y = self._norm("norm_attention")(x)
        qkv = self._dense(y, 3 * width, "qkv")
        qkv = qkv.reshape(batch, length, 3, self.heads, head_width)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, P, d]
        o = attention.attention(q, k, v, implementation=self.implementation)
        o = o.swapaxes(1, 2).reshape(batch, length, width)
        x = x + self._scaled(self._dense(o, width, "out"), "scale_attention")

        y = self._norm("norm_mlp")(x)
        y = self._dense(self._hidden(y), width, "mlp_out")
        return x + self._scaled(y, "scale_mlp")

    def _hidden(self, y: Float[Array, "B P D"]) -> Float[Array, "B P M"]:
        if not self.swiglu:
            return nn.gelu(self._dense(y, self.mlp, "mlp_in"), approximate=False)
        gate, value = jnp.split(self._dense(y, 2 * self.mlp, "mlp_in"), 2, axis=-1)
        return nn.silu(gate) * value

    def _scaled(self, y: Float[Array, "B P D"], name: str) -> Float[Array, "B P D"]:
        """LayerScale (Touvron et al. 2021, CaiT), where the variant has it."""
        if not self.layer_scale:
            return y
        scale = self.param(name, nn.initializers.ones, y.shape[-1:], jnp.float32)
        return y * scale.astype(y.dtype)[None, None]

    def _norm(self, name: str) -> nn.LayerNorm:
        # use_fast_variance subtracts two large numbers: 1e-6 of parity is lost there.
        return nn.LayerNorm(
            epsilon=self.layer_norm_eps,
            dtype=self.compute_dtype,
            use_fast_variance=False,
            name=name,
        )

    def _dense(self, x: jax.Array, features: int, name: str) -> jax.Array:
        layer = nn.Dense(
            features, dtype=self.compute_dtype, kernel_init=_kernel_init, name=name
        )
        return as_rows(layer, x)


class ViT(nn.Module):
    """Patch embedding, a learned position embedding, a stack of blocks, a last norm.

    Attributes:
      size: width, depth, heads, MLP width.
      patch: side of a patch in pixels, p.
      image_size: H, W; both multiples of p.
      layer_norm_eps: of every LayerNorm (P10; imported weights bring theirs).
      compute_dtype: of activations; parameters and LayerNorm statistics stay float32.
      implementation: of attention, see `attention.choose`.
      remat: what the backward pass keeps of a block: "none" recomputes nothing,
        "attention" keeps q, k, v, o and the log-sum-exp, "output" the last two of
        these, "block" nothing but its input.
      unroll: blocks a loop iteration; `depth` removes the loop (for FLOP counts).
      class_token: whether a class token runs ahead of the patches. It is no part of
        the P patches; its position embedding is summed into it.
      pooling: what `pool` gives, one of `POOLINGS`.
      frozen: blocks, from the first on, that are not trained, and the embeddings with
        them: their gradient is 0 and costs nothing.
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
    frozen: int = 0

    def setup(self) -> None:
        """Declares the parameters; the blocks' have a leading layer axis."""
        self._check_fields()
        h, w = grid(self.image_size, self.patch)
        self.embedding = nn.Dense(
            self.size.width, dtype=self.compute_dtype, kernel_init=_kernel_init
        )
        self.position = self.param(
            "position", _position_init, (h * w, self.size.width), jnp.float32
        )
        if self.num_ahead:
            shape = (self.num_ahead, self.size.width)
            self.ahead = self.param("ahead", _position_init, shape, jnp.float32)
        self.blocks = self.param("blocks", self._init_blocks)
        self.norm = nn.LayerNorm(
            epsilon=self.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, h x w."""
        return grid(self.image_size, self.patch)

    @property
    def num_ahead(self) -> int:
        """A, tokens ahead of the patches: the class token, then the registers."""
        return int(self.class_token) + self.size.registers

    def embed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B P D"]:
        """Linear embedding of the patches, row-major, without position."""
        b, height, width, c = image.shape
        if (height, width) != tuple(self.image_size):
            raise ValueError(
                f"encoder: got an image of {height} x {width} pixels, expected "
                f"{self.image_size[0]} x {self.image_size[1]}. Resize it, or build the "
                "encoder for its size."
            )
        h, w = self.grid
        p = self.patch
        x = image.reshape(b, h, p, w, p, c).transpose(0, 1, 3, 2, 4, 5)
        return as_rows(self.embedding, x.reshape(b, h * w, p * p * c))

    def add_position(self, tokens: Float[Array, "B P D"]) -> Float[Array, "B T D"]:
        """The residual stream before block 0: position added, T = A + P tokens."""
        x = tokens + self.position.astype(tokens.dtype)[None]
        if self.num_ahead:
            shape = (x.shape[0], *self.ahead.shape)
            ahead = jnp.broadcast_to(self.ahead.astype(x.dtype), shape)
            x = jnp.concatenate([ahead, x], axis=1)  # [B, A + P, D]
        return lax.stop_gradient(x) if self.frozen else x

    def run(
        self, tokens: Float[Array, "B T D"], first: int = 0, last: int | None = None
    ) -> Float[Array, "B T D"]:
        """Runs blocks first … last - 1; any split gives the same result."""
        if first < self.frozen:
            # Of the parameters alone: Eq. (1) may still differentiate the tokens.
            held = self.frozen if last is None else min(self.frozen, last)
            still = jax.tree.map(lambda a: a[first:held], self.blocks)
            tokens = self._scan(tokens, lax.stop_gradient(still))
            first = held
        return self._scan(tokens, jax.tree.map(lambda a: a[first:last], self.blocks))

    def _scan(self, tokens: Float[Array, "B T D"], stack: Params) -> jax.Array:
        block = self._block(self.implementation)

        def step(x: jax.Array, layer: Params) -> tuple[Any, None]:
            return block.apply({"params": layer}, x), None

        if self.remat not in REMAT_POLICIES:
            raise ValueError(
                f"remat: {self.remat!r} is not a policy. Expected one of "
                f"{', '.join(REMAT_POLICIES)}."
            )
        if self.remat != "none":
            keep = jax.checkpoint_policies.save_only_these_names(*_KEPT[self.remat])
            step = jax.checkpoint(step, policy=keep, prevent_cse=False)
        return lax.scan(step, tokens, stack, unroll=self.unroll)[0]

    def finish(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The last LayerNorm, in float32; what is pooled is the method's affair."""
        return self.norm(tokens)

    def pool(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """Of finished tokens: the mean of the P patches (P7), or the class token."""
        if self.pooling == "class_token":
            return tokens[:, 0]
        return tokens[:, self.num_ahead :].mean(axis=1)

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B T D"]:
        """All but pooling, in order."""
        return self.finish(self.run(self.add_position(self.embed(image))))

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
        block = self._block("naive")  # one token: no kernel is worth compiling
        return jax.vmap(lambda k: block.init(k, example)["params"])(keys)

    def _check_fields(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: {self.pooling!r} is not known. Expected one of "
                f"{', '.join(POOLINGS)}."
            )
        if self.pooling == "class_token" and not self.class_token:
            raise ValueError(
                "pooling: 'class_token', but the class token is dropped. Pass "
                "--config.init.class_token=keep, or --config.pooling=patches."
            )
        if not 0 <= self.frozen <= self.size.depth:
            raise ValueError(
                f"optimizer.freeze_blocks: got {self.frozen}, expected 0 … "
                f"{self.size.depth}, the encoder's blocks."
            )
