"""Image encoders that a config describes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from fof_jax.models import vit
from fof_jax.models.pooled_tokens import PooledTokens


def build_vit(config: ConfigDict) -> vit.ViT:
    """Vision Transformer of `config.encoder` at `config.data.image_size`.

    Raises:
      ValueError: no such variant, or a dtype that is not known.
    """
    size, patch = vit.parse_variant(config.encoder)
    side = config.data.image_size
    return vit.ViT(
        size=size,
        patch=patch,
        image_size=(side, side),
        layer_norm_eps=config.layer_norm_eps,
        compute_dtype=compute_dtype(config.compute_dtype, jax.default_backend()),
        implementation=config.attention,
        remat=config.remat,
        class_token=config.init.class_token == "keep",
        pooling=config.pooling,
        frozen_blocks=config.optimizer.freeze_blocks,
    )


def build_image_encoder(config: ConfigDict) -> nn.Module:
    """The encoder of `build_vit`, called as `encoder(image, train=...)`, gives [B, D].

    Raises:
      ValueError: as `build_vit`.
    """
    return PooledTokens(encoder=build_vit(config))


def compute_dtype(name: str, platform: str) -> Any:
    """Dtype of activations by its name in the config.

    Args:
      name: float32, bfloat16, or auto: float32 on a CPU, bfloat16 elsewhere.
      platform: JAX's name of the backend.

    Raises:
      ValueError: another name.
    """
    names = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name == "auto":
        return jnp.float32 if platform == "cpu" else jnp.bfloat16
    if name not in names:
        raise ValueError(
            f"compute_dtype: {name!r} is not known. Expected float32, bfloat16 or auto."
        )
    return names[name]
