"""Image encoders that a config describes."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from fof_jax.models import bag_vit, image_encoders, vit
from fof_jax.models.pooled_tokens import PooledTokens


def build_vit(config: ConfigDict) -> vit.ViT:
    """Vision Transformer of `config.encoder` at `config.data.image_size`, or of bags.

    Raises:
      ValueError: no such variant, or a dtype that is not known.
    """
    if bag_vit.is_known(config.encoder):
        return bag_vit.BagViT(
            size=bag_vit.parse_variant(config.encoder),
            positions=config.bags.positions,
            layer_norm_eps=config.layer_norm_eps,
            compute_dtype=_dtype(config),
            implementation=config.attention,
            remat=config.remat,
            unroll=config.get("unroll", 1),
            class_token=config.init.class_token == "keep",
            pooling=config.pooling,
            frozen_blocks=config.optimizer.freeze_blocks,
        )
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
        unroll=config.get("unroll", 1),  # earlier runs do not have it
        class_token=config.init.class_token == "keep",
        pooling=config.pooling,
        frozen_blocks=config.optimizer.freeze_blocks,
    )


def modality(encoder: vit.ViT) -> Literal["image", "bag"]:
    """What an encoder reads."""
    return "bag" if isinstance(encoder, bag_vit.BagViT) else "image"


def find_vit(config: ConfigDict) -> vit.ViT | None:
    """The ViT of `build_vit`; None where the config names another encoder."""
    return None if image_encoders.is_known(config.encoder) else build_vit(config)


def build_image_encoder(config: ConfigDict) -> nn.Module:
    """Encoder of rows that project features themselves: the fusions, DGKD, CLAT.

    It is called as `encoder(image, train=...)` and gives [B, D].

    Raises:
      ValueError: no such encoder, or a dtype that is not known.
    """
    if image_encoders.is_known(config.encoder):
        return image_encoders.build(
            config.encoder, dtype=_dtype(config), projection=False
        )
    return PooledTokens(encoder=build_vit(config))


def build_classified(config: ConfigDict) -> nn.Module:
    """Encoder whose feature a linear classifier reads, for `StudentNetwork`.

    The ViT of `build_vit`, or another with its published head: PathCNN's projection
    behind ResNet-18, the three layers of Pathomic Fusion behind VGG19-BN.

    Raises:
      ValueError: no such encoder, or a dtype that is not known.
    """
    if image_encoders.is_known(config.encoder):
        return image_encoders.build(config.encoder, dtype=_dtype(config))
    return build_vit(config)


def validate(config: ConfigDict) -> None:
    """Checks the encoder, and that images of `data.image_size` fit it.

    Raises:
      ValueError: no such encoder or dtype, a size that does not fit, a frozen trunk
        without weights, or a field that only the ViT has.
    """
    compute_dtype(config.compute_dtype, jax.default_backend())
    name, side = config.encoder, config.data.image_size
    if bag_vit.is_known(name):
        size = bag_vit.parse_variant(name)
        bag_vit.check_positions(config.bags.positions, size.width)
        _require(name, config, _OF_BAGS)
        return
    if not image_encoders.is_known(name):
        try:
            _, patch = vit.parse_variant(name)
        except ValueError as error:
            raise ValueError(
                f"{error} Encoders other than the ViT: "
                f"{', '.join(image_encoders.NAMES)}; of bags: SIZE{bag_vit.SUFFIX}."
            ) from None
        vit.grid((side, side), patch)
        return
    image_encoders.check(name, side)
    if name == image_encoders.VGG and not config.init.checkpoint:
        raise ValueError(
            f"encoder: {name} has a frozen trunk, which would keep its random weights. "
            "Pass --config.init.checkpoint=FOLDER, or "
            f"--config.encoder={image_encoders.VGG_UNFROZEN} to train from scratch."
        )
    _require(name, config, _WITHOUT_VIT)


# Fields that only the ViT of images has, and their values for other encoders.
_OF_BAGS = {"pooling": "patches", "init.class_token": "drop"}
_WITHOUT_VIT = _OF_BAGS | {
    "optimizer.layer_decay": 1.0,
    "optimizer.freeze_blocks": 0,
    "optimizer.head_factor": 1.0,
}


def _require(name: str, config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Refuses values that the encoder `name` does not have."""
    for field, only in values.items():
        value: Any = config
        for key in field.split("."):
            value = value[key]
        if value != only:
            raise ValueError(
                f"{field}: got {value}, which only the ViT has; the encoder is "
                f"{name}. Pass --config.{field}={only}."
            )


def _dtype(config: ConfigDict) -> Any:
    return compute_dtype(config.compute_dtype, jax.default_backend())


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
