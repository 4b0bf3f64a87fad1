"""Swin Transformer V2: cosine attention in shifted windows, norms after the residuals.

Parameters do not depend on the image size: relative positions enter by a small network
of log-spaced coordinates, so that weights transfer between sizes and windows.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.models import swin_window
from fof_jax.models.dropout import DropPath
from fof_jax.models.swin_variants import PREFIX as PREFIX
from fof_jax.models.swin_variants import SIZES as SIZES
from fof_jax.models.swin_variants import Size as Size
from fof_jax.models.swin_variants import check_image_size as check_image_size
from fof_jax.models.swin_variants import parse_variant as parse_variant

PATCH = swin_window.PATCH
LAYER_NORM_EPS = 1e-5
_LARGEST_SCALE = math.log(100.0)
_BIAS_RANGE = 16.0
_BIAS_HIDDEN = 512
_SMALLEST_NORM = 1e-12
_kernel_init = nn.initializers.truncated_normal(0.02)


def _layer_norm(name: str, scale: float = 1.0) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=LAYER_NORM_EPS,
        use_fast_variance=False,  # it subtracts two large numbers
        scale_init=nn.initializers.constant(scale),
        name=name,
    )


def _unit(x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
    """x / max(|x|, 1e-12); the gradient at 0 is finite."""
    square = (x * x).sum(axis=-1, keepdims=True)
    smallest = _SMALLEST_NORM**2
    norm = jnp.sqrt(jnp.where(square > smallest, square, 1.0))
    return x / jnp.where(square > smallest, norm, _SMALLEST_NORM)


class WindowAttention(nn.Module):
    """Scaled cosine attention of the tokens of a window.

    Attributes:
      heads: number of attention heads.
      pretrained_window: see `swin_window.coordinates`.
      dtype: of the matrix products; logits and softmax are float32.
    """

    heads: int
    pretrained_window: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N T C"],
        mask: Float[np.ndarray, "nW T T"] | None = None,
    ) -> Float[Array, "N T C"]:
        """Attention within each window.

        Args:
          x: windows, image-major; T is a square.
          mask: added to the logits of the windows of each image; None for none.

        Returns:
          windows after the output projection.

        Source: Liu et al. 2022, Eq. (2); methods/encoders.md, traps 11-14.
        """
        n, tokens, width = x.shape
        side = math.isqrt(tokens)
        zeros = nn.initializers.zeros
        q_bias = self.param("q_bias", zeros, (width,), jnp.float32)
        v_bias = self.param("v_bias", zeros, (width,), jnp.float32)
        qkv = self._dense(3 * width, "qkv", bias=False)(x)
        bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        qkv = qkv + bias.astype(qkv.dtype)[None, None]
        qkv = qkv.reshape(n, tokens, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        q, k, v = qkv  # each [N, heads, T, d]

        q, k = (_unit(a.astype(jnp.float32)) for a in (q, k))
        logits = jnp.einsum("nhqd,nhkd->nhqk", q, k)
        logits = logits * self._scale()[None] + self._bias(side)[None]
        if mask is not None:
            count = mask.shape[0]
            logits = logits.reshape(-1, count, self.heads, tokens, tokens)
            logits = logits + jnp.asarray(mask)[None, :, None]
            logits = logits.reshape(n, self.heads, tokens, tokens)
        self.sow("intermediates", "logits", logits)
        weights = jax.nn.softmax(logits)
        out = jnp.einsum("nhqk,nhkd->nqhd", weights.astype(v.dtype), v)
        return self._dense(width, "proj")(out.reshape(n, tokens, width))

    def _scale(self) -> Float[Array, "heads 1 1"]:
        """Inverse temperature, at most 100; a clamped head has no gradient."""
        init = nn.initializers.constant(math.log(10.0))
        scale = self.param("logit_scale", init, (self.heads, 1, 1), jnp.float32)
        return jnp.exp(jnp.where(scale > _LARGEST_SCALE, _LARGEST_SCALE, scale))

    def _bias(self, side: int) -> Float[Array, "heads T T"]:
        """Bias of each pair of tokens by their relative position, in (0, 16)."""
        table = swin_window.coordinates(side, self.pretrained_window).reshape(-1, 2)
        hidden = nn.Dense(_BIAS_HIDDEN, kernel_init=_kernel_init, name="cpb_0")(table)
        bias = nn.Dense(
            self.heads, use_bias=False, kernel_init=_kernel_init, name="cpb_2"
        )(jax.nn.relu(hidden))  # [(2 w - 1)^2, heads]
        of_pair = bias[swin_window.position_index(side)]  # [T, T, heads]
        return _BIAS_RANGE * jax.nn.sigmoid(of_pair.transpose(2, 0, 1))

    def _dense(self, features: int, name: str, bias: bool = True) -> nn.Dense:
        return nn.Dense(
            features,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name=name,
        )


class Block(nn.Module):
    """Window attention and MLP, each normalized before it is added.

    Attributes:
      heads: number of attention heads.
      window: side of the windows, in tokens, and the shift.
      drop_path: rate of both branches.
      pretrained_window: see `swin_window.coordinates`.
      dtype: of the matrix products.
    """

    heads: int
    window: swin_window.Window
    drop_path: float = 0.0
    pretrained_window: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B H W C"]:
        """Applies the block; `train` is of the drop path."""
        _, height, breadth, width = x.shape
        grid = height, breadth
        side, shift = self.window
        mask = swin_window.shift_mask(grid, side, shift) if shift else None
        y = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        attention = WindowAttention(
            self.heads, self.pretrained_window, self.dtype, name="attn"
        )
        y = swin_window.reverse(
            attention(swin_window.partition(y, side), mask), side, grid
        )
        y = jnp.roll(y, (shift, shift), axis=(1, 2)) if shift else y
        # A fresh block is the identity: both norms start at 0.
        y = _layer_norm("norm1", 0.0)(y)
        x = x + DropPath(self.drop_path, name="drop_attention")(y, train=train)

        y = nn.gelu(self._dense(4 * width, "fc1")(x), approximate=False)
        y = _layer_norm("norm2", 0.0)(self._dense(width, "fc2")(y))
        return x + DropPath(self.drop_path, name="drop_mlp")(y, train=train)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=_kernel_init, name=name)


def quadrants(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C4"]:
    """Joins 2 x 2 tokens in the order (0, 0), (1, 0), (0, 1), (1, 1), row first.

    Source: methods/encoders.md, trap 15.
    """
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return jnp.concatenate(parts, axis=-1)


class PatchMerging(nn.Module):
    """Joins 2 x 2 tokens: linear to twice the width, then norm."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Maps to maps of half the sides."""
        y = nn.Dense(
            2 * x.shape[-1],
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="reduction",
        )(quadrants(x))
        return _layer_norm("norm")(y)


class SwinV2(nn.Module):
    """Image to the mean of the last stage's normalized tokens.

    Attributes:
      size: width, depths, heads, drop path.
      window: side of the windows, in tokens.
      pretrained_window: window that scales the relative coordinates; 0 is the one used.
      dtype: of the matrix products; norms, logits and softmax are float32.
    """

    size: Size = SIZES["tiny"]
    window: int = 8
    pretrained_window: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Encodes images.

        Args:
          image: normalized pixels.
          train: whether blocks are dropped.

        Returns:
          features, 8 times as wide as the first of four stages.

        Raises:
          ValueError: windows do not divide the maps of this image size.

        Source: Liu et al. 2022; METHODS.md A3 with methods/encoders.md.
        """
        depths = self.size.depths
        _, height, breadth, _ = image.shape
        check_image_size((height, breadth), window=self.window, stages=len(depths))
        x = nn.Conv(
            self.size.width,
            (PATCH, PATCH),
            strides=(PATCH, PATCH),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="patch_embed",
        )(image)
        x = _layer_norm("patch_norm")(x)  # [B, H/4, W/4, width]
        rates = np.linspace(0, self.size.drop_path, sum(depths)).tolist()
        for stage, (depth, heads) in enumerate(
            zip(depths, self.size.heads, strict=True)
        ):
            _, height, breadth, _ = x.shape
            window = swin_window.window_of((height, breadth), self.window)
            for block in range(depth):
                x = Block(
                    heads=heads,
                    window=window._replace(shift=window.shift if block % 2 else 0),
                    drop_path=rates.pop(0),
                    pretrained_window=self.pretrained_window,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, train=train)
            if stage < len(depths) - 1:
                x = PatchMerging(self.dtype, name=f"merge{stage}")(x)
        return _layer_norm("norm")(x).mean(axis=(1, 2))
