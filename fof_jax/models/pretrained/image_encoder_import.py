"""Imports published weights of ResNet-18, VGG19-BN and SwinV2 by their tensor names."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax.models import image_encoders, resnet, swin, vgg
from fof_jax.models.pretrained import image_encoder_names as names
from fof_jax.models.pretrained import torch_layers, weight_files
from fof_jax.models.pretrained.torch_layers import Layers
from fof_jax.types import Params

SOURCES = ("torchvision", "timm", "microsoft")
Tensors = Mapping[str, np.ndarray]

# Tensors without a place here: classifiers, counters, constants, and tables that are
# computed from the sizes.
_LEFT_OUT = re.compile(
    r"(fc|fc_new2|linear|head|head\.fc)\.(weight|bias)|output_(range|shift)"
    r"|.*\.(num_batches_tracked|relative_coords_table|relative_position_index)"
    r"|num_batches_tracked|.*\.attn_mask"
)
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.(.*)")
_SWIN_BLOCK = re.compile(r"features\.(\d+)\.(\d+)\.(.*)")
_SWIN_MERGING = re.compile(r"features\.(\d+)\.((?:reduction|norm)\..*)")


@dataclasses.dataclass(frozen=True)
class ImportedImageEncoder:
    """An imported encoder.

    Attributes:
      name: as `config.encoder` has it, e.g. "swinv2_tiny/8".
      params: of the encoder; a head that the file lacks is missing.
      statistics: running means and variances; {} without batch normalization.
      loaded: names of the file's tensors that are in these.
      left_out: names of the others.
    """

    name: str
    params: Params
    statistics: Params
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]


def recognizes(tensors: Tensors) -> bool:
    """Whether tensors are of one of these encoders, by their names."""
    return _family(tensors) is not None


def import_image_encoder(
    file: weight_files.WeightsFile, source: str, *, variant: str | None = None
) -> ImportedImageEncoder:
    """Imports the encoder of a weights file.

    Args:
      file: return value of `weight_files.read`.
      source: library whose names the tensors have, one of `SOURCES`.
      variant: of a SwinV2 whose window the file does not have, e.g. "swinv2_tiny/8".

    Raises:
      ValueError: another library's names, a missing or unexpected tensor, another
        shape, or an unknown window.

    Source: methods/encoders.md, "Published ImageNet weights by name".
    """
    family = _family(file.tensors)
    expected = _SOURCES_OF.get(family or "", ())
    if source not in expected:
        raise ValueError(
            f"{file.path}: the tensors are of {family or 'no known image encoder'}, "
            f"expected --from one of {', '.join(expected or SOURCES)}; got {source}."
        )
    original = {}  # name in the table -> name in the file
    tensors: dict[str, np.ndarray] = {}
    for name, value in file.tensors.items():
        for renamed, part in _renamed(name, value, family or ""):
            original[renamed] = name
            tensors[renamed] = part
    encoder, encoder_name, layers = _encoder(family or "", tensors, file, variant)
    used, left_out = {}, []
    for name, value in tensors.items():
        if name in names.VGG_HEAD or name.rpartition(".")[0] in names.VGG_HEAD:
            if value.shape != _shapes(encoder, layers).get(name):
                left_out.append(original[name])  # torchvision's classifier
                continue
        elif _LEFT_OUT.fullmatch(name):
            left_out.append(original[name])
            continue
        used[name] = value
    _check(file, encoder, layers, used, original)
    collections = torch_layers.to_flax(used, layers)
    return ImportedImageEncoder(
        name=encoder_name,
        params=collections["params"],
        statistics=collections["batch_stats"],
        loaded=tuple(sorted({original[name] for name in used})),
        left_out=tuple(sorted(set(left_out))),
    )


def _family(tensors: Tensors) -> str | None:
    for family, name in (
        ("ResNet-18", "layer1.0.conv1.weight"),
        ("VGG19-BN", "features.1.running_var"),
        ("SwinV2 of torchvision", "features.1.0.attn.logit_scale"),
        ("SwinV2", "layers.0.blocks.0.attn.logit_scale"),
    ):
        if name in tensors:
            # timm has the merging in the stage after it.
            late = f"layers.{0}.downsample.reduction.weight" not in tensors
            return f"{family} of timm" if family == "SwinV2" and late else family
    return None


_SOURCES_OF = {
    "ResNet-18": ("torchvision",),
    "VGG19-BN": ("torchvision",),
    "SwinV2 of torchvision": ("torchvision",),
    "SwinV2 of timm": ("timm",),
    "SwinV2": ("microsoft",),
}


def _renamed(name: str, value: np.ndarray, family: str) -> list[tuple[str, np.ndarray]]:
    """Microsoft's names of a SwinV2 tensor; the others as they are."""
    if family == "SwinV2 of timm" and (match := _MERGING.fullmatch(name)):
        return [(f"layers.{int(match[1]) - 1}.downsample.{match[2]}", value)]
    if family != "SwinV2 of torchvision":
        return [(name, value)]
    if match := _SWIN_MERGING.fullmatch(name):
        return [(f"layers.{int(match[1]) // 2 - 1}.downsample.{match[2]}", value)]
    match = _SWIN_BLOCK.fullmatch(name)
    if match is None:
        return [(name, value)]
    if match[1] == "0":
        part = {"0": "proj", "2": "norm"}[match[2]]
        return [(f"patch_embed.{part}.{match[3]}", value)]
    prefix = f"layers.{int(match[1]) // 2}.blocks.{match[2]}."
    if match[3] == "attn.qkv.bias":
        # The key's third is set to 0 at every call.
        q, _, v = np.split(value, 3)
        return [(f"{prefix}attn.q_bias", q), (f"{prefix}attn.v_bias", v)]
    inner = match[3].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    inner = inner.replace("cpb_mlp.fc1.", "cpb_mlp.0.")
    return [(prefix + inner, value)]


def _encoder(
    family: str,
    tensors: Tensors,
    file: weight_files.WeightsFile,
    variant: str | None,
) -> tuple[nn.Module, str, Layers]:
    """Encoder, its name in a config, and the published names of its layers."""
    if family.startswith("SwinV2"):
        name = _swin_name(tensors, file, variant)
        module = swin.SwinV2(**swin.parse_variant(name)._asdict())
        return module, name, names.swin_layers(module)
    builders: dict[str, tuple[Any, Callable[[Any], Layers], str]] = {
        "ResNet-18": (resnet.ResNet(), names.resnet_layers, image_encoders.RESNET),
        "VGG19-BN": (vgg.VGG(), names.vgg_layers, image_encoders.VGG),
    }
    encoder, layers, name = builders[family]
    if variant not in (None, name):
        raise ValueError(
            f"--encoder: {variant} does not match the file, which has {name}. Leave "
            "the flag out."
        )
    return encoder, name, layers(encoder)


def _swin_name(
    tensors: Tensors, file: weight_files.WeightsFile, variant: str | None
) -> str:
    width = tensors["patch_embed.proj.weight"].shape[0]
    depths: list[int] = []
    heads: list[int] = []
    while f"layers.{len(depths)}.blocks.0.attn.logit_scale" in tensors:
        stage = f"layers.{len(depths)}.blocks."
        heads.append(tensors[f"{stage}0.attn.logit_scale"].shape[0])
        blocks = {n.removeprefix(stage).split(".")[0] for n in tensors if stage in n}
        depths.append(len(blocks))
    matches = [
        name
        for name, size in swin.SIZES.items()
        if (size.width, size.depths, size.heads) == (width, (*depths,), (*heads,))
    ]
    if not matches:
        raise ValueError(
            f"{file.path}: a SwinV2 of width {width}, depths {depths} and heads "
            f"{heads}, expected one of {', '.join(swin.SIZES)}."
        )
    window = _window(tensors, file)
    if variant is not None:
        asked = swin.parse_variant(variant)
        window = window or asked.window
        if asked != (swin.SIZES[matches[0]], window, 0):
            raise ValueError(
                f"--encoder: {variant} does not match the file, which has "
                f"{swin.PREFIX}{matches[0]}/{window}. Leave the flag out."
            )
        return variant
    if window is None:
        raise ValueError(
            f"{file.path}: unknown window, which this library does not save. Pass "
            f"--encoder={swin.PREFIX}{matches[0]}/8, with the window of its training."
        )
    return f"{swin.PREFIX}{matches[0]}/{window}"


def _window(tensors: Tensors, file: weight_files.WeightsFile) -> int | None:
    """Window of training: from a saved table, or the name in config.json."""
    index = tensors.get("layers.0.blocks.0.attn.relative_position_index")
    if index is not None:
        return round(index.size**0.25)  # w^2 x w^2 pairs
    match = re.search(r"window(\d+)", str((file.config or {}).get("architecture", "")))
    return int(match[1]) if match else None


def _shapes(encoder: nn.Module, layers: Layers) -> dict[str, tuple[int, ...]]:
    """Shapes that a fresh encoder has, by published name."""
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    fresh: Any = jax.eval_shape(
        lambda image: encoder.init(jax.random.key(0), image, train=False), image
    )
    paths = {path: name for name, path in layers.items()}
    statistics = {ours: theirs for theirs, ours in torch_layers.STATISTICS.items()}
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(fresh):
        collection, *module, last = (key.key for key in path)
        layer = paths[tuple(module)]
        if last == "kernel":
            weight = torch_layers.weight_of(np.empty(leaf.shape, bool))
            shapes[f"{layer}.weight"] = weight.shape
        elif collection == "batch_stats":
            shapes[f"{layer}.{statistics[last]}"] = leaf.shape
        else:
            shapes[f"{layer}.{'weight' if last == 'scale' else last}"] = leaf.shape
    return shapes


def _check(
    file: weight_files.WeightsFile,
    encoder: nn.Module,
    layers: Layers,
    used: Tensors,
    original: Mapping[str, str],
) -> None:
    """Checks names and shapes; heads (fc_new1, VGG's classifier) may be missing."""
    shapes = _shapes(encoder, layers)
    for name, value in used.items():
        if name not in shapes:
            raise ValueError(
                f"{file.path}: tensor {original[name]!r} has no place in "
                f"{type(encoder).__name__}. Was it written by another library or for "
                "another depth?"
            )
        if value.shape != shapes[name]:
            raise ValueError(
                f"{file.path}: {original[name]} has shape {value.shape}, expected "
                f"{shapes[name]}. Is it of another size of the encoder?"
            )
    heads = ("fc_new1.", *(f"{name}." for name in names.VGG_HEAD))
    missing = [n for n in shapes if n not in used and not n.startswith(heads)]
    if missing:
        raise ValueError(
            f"{file.path}: {len(missing)} tensors are missing, the first is "
            f"{missing[0]!r}. Is the file truncated, or of another encoder?"
        )
