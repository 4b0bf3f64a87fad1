"""The encoder g: a pre-LN Vision Transformer without class token and without head.

Blocks are one stack of parameters with a leading layer axis, run by `lax.scan`: XLA
then obeys the rematerialisation policy, compiles one block instead of twelve, and a
forward pass is split at any block by slicing the stack, which is how the class
activation map differentiates the tail only.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from fof_jax import attention
from fof_jax.shapes import Params

# What each policy keeps of a block besides its input, by name; see `ViT.remat`.
_KEPT = {
    "attention": attention.SAVED_NAMES,
    "output": attention.OUTPUT_NAMES,
    "block": (),
}
REMAT_POLICIES = ("none", *_KEPT)


@dataclasses.dataclass(frozen=True)
class Size:
    """The numbers of one variant."""

    width: int
    depth: int
    heads: int
    mlp: int


# Ti and S: Touvron et al. 2021 (DeiT) and Steiner et al. 2021, Table 2; mu: our tests.
SIZES = {
    "mu": Size(width=64, depth=4, heads=2, mlp=256),
    "Ti": Size(width=192, depth=12, heads=3, mlp=768),
    "S": Size(width=384, depth=12, heads=6, mlp=1536),
}


def variant(name: str) -> tuple[Size, int]:
    """Reads a name such as "Ti/16" into its size and the patch side in pixels.

    Raises:
      ValueError: the name has another form or an unknown size.
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(
            f"encoder: {name!r} is not a variant. Expected SIZE/PATCH with SIZE one of "
            f"{', '.join(SIZES)} and PATCH a positive number of pixels, e.g. 'Ti/16'."
        )
    return SIZES[size], int(patch)


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


# Dosovitskiy et al. 2021: a fixed deviation of 0.02 starves narrow encoders.
_kernel_init = nn.initializers.xavier_uniform()
_position_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """LN, attention, residual; LN, MLP with exact GELU, residual."""

    heads: int
    mlp: int
    layer_norm_eps: float
    compute_dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Residual stream in, residual stream out."""
        batch, length, width = x.shape
        head_width = width // self.heads

        y = self._norm("norm_attention")(x)
        qkv = self._dense(3 * width, "qkv")(y)
        qkv = qkv.reshape(batch, length, 3, self.heads, head_width)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, P, d]
        o = attention.attention(q, k, v, implementation=self.implementation)
        o = o.swapaxes(1, 2).reshape(batch, length, width)
        x = x + self._dense(width, "out")(o)

        y = self._norm("norm_mlp")(x)
        y = nn.gelu(self._dense(self.mlp, "mlp_in")(y), approximate=False)
        return x + self._dense(width, "mlp_out")(y)

    def _norm(self, name: str) -> nn.LayerNorm:
        # use_fast_variance subtracts two large numbers: 1e-6 of parity is lost there.
        return nn.LayerNorm(
            epsilon=self.layer_norm_eps,
            dtype=self.compute_dtype,
            use_fast_variance=False,
            name=name,
        )

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(
            features, dtype=self.compute_dtype, kernel_init=_kernel_init, name=name
        )


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
    """

    size: Size
    patch: int
    image_size: tuple[int, int]
    layer_norm_eps: float = 1e-6
    compute_dtype: Any = jnp.float32
    implementation: str = "auto"
    remat: str = "attention"
    unroll: int = 1

    def setup(self) -> None:
        """Declares the parameters; the blocks' have a leading layer axis."""
        h, w = grid(self.image_size, self.patch)
        self.embedding = nn.Dense(
            self.size.width, dtype=self.compute_dtype, kernel_init=_kernel_init
        )
        self.position = self.param(
            "position", _position_init, (h * w, self.size.width), jnp.float32
        )
        self.blocks = self.param("blocks", self._init_blocks)
        self.norm = nn.LayerNorm(
            epsilon=self.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, h x w."""
        return grid(self.image_size, self.patch)

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
        return self.embedding(x.reshape(b, h * w, p * p * c))

    def add_position(self, tokens: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Adds the learned position embedding: the residual stream before block 0."""
        return tokens + self.position.astype(tokens.dtype)[None]

    def run(
        self, tokens: Float[Array, "B P D"], first: int = 0, last: int | None = None
    ) -> Float[Array, "B P D"]:
        """Runs blocks first … last - 1; any split gives the same result."""
        stack = jax.tree.map(lambda a: a[first:last], self.blocks)
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

    def finish(self, tokens: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """The last LayerNorm, in float32; pooling is the method's affair."""
        return self.norm(tokens)

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B P D"]:
        """All of the above, in order."""
        return self.finish(self.run(self.add_position(self.embed(image))))

    def _block(self, implementation: str) -> Block:
        return Block(
            heads=self.size.heads,
            mlp=self.size.mlp,
            layer_norm_eps=self.layer_norm_eps,
            compute_dtype=self.compute_dtype,
            implementation=implementation,
            parent=None,
        )

    def _init_blocks(self, key: jax.Array) -> Params:
        example = jnp.zeros((1, 1, self.size.width))
        keys = jax.random.split(key, self.size.depth)
        block = self._block("naive")  # one token: no kernel is worth compiling
        return jax.vmap(lambda k: block.init(k, example)["params"])(keys)
