"""Image encoders other than the ViT by the name that a config gives them."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from fof_jax.models import resnet, swin, vgg

RESNET, VGG = "resnet18", "vgg19bn"
# As published the trunk of VGG19-BN has given weights and is not trained.
VGG_UNFROZEN = "vgg19bn_unfrozen"
NAMES = (
    RESNET,
    VGG,
    VGG_UNFROZEN,
    *(f"{swin.PREFIX}{size}/WINDOW[/PRETRAINED]" for size in swin.SIZES),
)
# Width of PathCNN's projection behind ResNet-18. METHODS.md A2
PROJECTION = 128


def is_known(name: str) -> bool:
    """Whether a name is of one of these encoders; a SwinV2's may be malformed."""
    return name in (RESNET, VGG, VGG_UNFROZEN) or name.startswith(swin.PREFIX)


def check(name: str, image_size: int) -> None:
    """Checks the variant and that square images of a side fit.

    Raises:
      ValueError: no such variant, or a size that it cannot read.
    """
    if name.startswith(swin.PREFIX):
        window = swin.parse_variant(name).window
        swin.check_image_size((image_size, image_size), window=window)
    elif name in (VGG, VGG_UNFROZEN):
        vgg.check_image_size((image_size, image_size), vgg.VGG19)


def build(name: str, *, dtype: Any = jnp.float32, projection: bool = True) -> nn.Module:
    """An encoder, called as `encoder(image, train=...)`, gives [B, D].

    Args:
      name: of `NAMES`.
      dtype: of convolutions and matrix products.
      projection: whether ResNet-18 ends with PathCNN's projection; rows that project
        features themselves take the pooled map.

    Raises:
      ValueError: no such variant.
    """
    if name == RESNET:
        return resnet.ResNet(features=PROJECTION if projection else None, dtype=dtype)
    if name in (VGG, VGG_UNFROZEN):
        return vgg.VGG(freeze=name == VGG, dtype=dtype)
    return swin.SwinV2(**swin.parse_variant(name)._asdict(), dtype=dtype)
