"""Published tensor names of ResNet-18, VGG19-BN and SwinV2, by layer of this package.

The tables are built for an encoder's own sizes, so that the recordings' small variants
have names too.
"""

from fof_jax.models.pretrained.torch_layers import Layers, Path
from fof_jax.models.resnet import ResNet
from fof_jax.models.swin import SwinV2
from fof_jax.models.vgg import VGG

VGG_HEAD = ("classifier.0", "classifier.3", "classifier.6")


def resnet_layers(encoder: ResNet) -> Layers:
    """Names of torchvision's ResNet, and of PathCNN's projection where there is one."""
    layers: dict[str, Path] = {"conv1": ("conv1",), "bn1": ("bn1",)}
    for stage, count in enumerate(encoder.blocks):
        for block in range(count):
            name, path = f"layer{stage + 1}.{block}", f"layer{stage + 1}_{block}"
            for layer in ("conv1", "bn1", "conv2", "bn2"):
                layers[f"{name}.{layer}"] = (path, layer)
            if stage and not block:
                layers[f"{name}.downsample.0"] = (path, "downsample_conv")
                layers[f"{name}.downsample.1"] = (path, "downsample_bn")
    if encoder.features is not None:
        layers["fc_new1.0"] = ("projection",)
        layers["fc_new1.1"] = ("projection_bn",)
    return layers


def vgg_layers(encoder: VGG) -> Layers:
    """Names of torchvision's VGG with batch normalization, and of the published head.

    In torchvision's files `classifier.*` are other tensors of other shapes.
    """
    layers: dict[str, Path] = {}
    for number, position in enumerate(vgg_positions(encoder.widths)):
        layers[f"features.{position}"] = ("trunk", f"conv{number}")
        layers[f"features.{position + 1}"] = ("trunk", f"bn{number}")
    for number, name in enumerate(VGG_HEAD):
        layers[name] = ("head", f"linear{number}")
    return layers


def vgg_positions(widths: tuple[int, ...]) -> list[int]:
    """Index in `features` of each convolution, which norm and ReLU follow."""
    positions, position = [], 0
    for width in widths:
        if width:
            positions.append(position)
        position += 3 if width else 1
    return positions


def swin_layers(encoder: SwinV2) -> Layers:
    """Names of Microsoft's SwinV2."""
    layers: dict[str, Path] = {
        "patch_embed.proj": ("patch_embed",),
        "patch_embed.norm": ("patch_norm",),
        "norm": ("norm",),
    }
    of_block: dict[str, Path] = {
        "norm1": ("norm1",),
        "norm2": ("norm2",),
        "mlp.fc1": ("fc1",),
        "mlp.fc2": ("fc2",),
        "attn": ("attn",),  # logit_scale, q_bias, v_bias
        "attn.qkv": ("attn", "qkv"),
        "attn.proj": ("attn", "proj"),
        "attn.cpb_mlp.0": ("attn", "cpb_0"),
        "attn.cpb_mlp.2": ("attn", "cpb_2"),
    }
    for stage, depth in enumerate(encoder.size.depths):
        for block in range(depth):
            for name, path in of_block.items():
                layers[f"layers.{stage}.blocks.{block}.{name}"] = (
                    f"stage{stage}_block{block}",
                    *path,
                )
        if stage < len(encoder.size.depths) - 1:
            for part in ("reduction", "norm"):
                layers[f"layers.{stage}.downsample.{part}"] = (f"merge{stage}", part)
    return layers
