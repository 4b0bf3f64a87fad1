"""Imports the encoder of a weights file as parameters of `vit.ViT`.

The image size (hence the number of patch rows in the position embedding), the number of
heads and the eps of LayerNorm cannot be read from tensors: they come from the source's
config.json or from the user.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.models import vit
from fof_jax.models.pretrained import (
    augreg,
    encoder_config,
    param_tree,
    tensor_names,
    weight_files,
)
from fof_jax.models.pretrained.encoder_config import ImageSize
from fof_jax.models.pretrained.param_tree import Tensors
from fof_jax.models.pretrained.tensor_names import Names
from fof_jax.types import Params

SOURCES = ("hf", "timm", "augreg", "dinov2")
# Supported model types of Hugging Face, and the tensor names they use.
_HF_TYPES = {
    "vit": tensor_names.HF_VIT,
    "ijepa": tensor_names.HF_VIT,
    "dinov2": tensor_names.HF_DINOV2,
    "dinov2_with_registers": tensor_names.HF_DINOV2,
}
_EPS = 1e-6  # LayerNorm epsilon of timm, AugReg, DINOv2, most of Hugging Face


@dataclasses.dataclass(frozen=True)
class ImportedEncoder:
    """An imported encoder.

    Attributes:
      params: parameters of `vit.ViT`; `ahead` holds the class token, if any, and the
        registers.
      variant: variant name with patch size, such as "Ti/16"; None if no variant has
        these dimensions.
      size: dimensions.
      patch: patch size p.
      image_size: training image size H, W.
      layer_norm_eps: epsilon of the source's LayerNorm.
      class_token: whether the first row of `ahead` is a class token.
      loaded: names of the source's tensors that are in `params`.
      left_out: names of the other tensors.
    """

    params: Params
    variant: str | None
    size: vit.Size
    patch: int
    image_size: ImageSize
    layer_norm_eps: float
    class_token: bool
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def grid(self) -> ImageSize:
        """Grid of its position embedding."""
        return vit.grid(self.image_size, self.patch)


def import_encoder(
    file: weight_files.WeightsFile,
    source: str,
    *,
    variant: str | None = None,
    image_size: ImageSize | None = None,
    heads: int | None = None,
) -> ImportedEncoder:
    """Imports the encoder of a weights file.

    Args:
      file: return value of `weight_files.read`.
      source: naming scheme of the tensors, one of `SOURCES`.
      variant: variant name with patch size, which determines the number of heads
        where config.json is missing. None finds the variant of these dimensions.
      image_size: training image size H, W; None takes that of config.json.
      heads: number of heads; None takes that of config.json or of the variant.

    Raises:
      ValueError: not a Vision Transformer, a missing or unexpected tensor, arguments
        or a config.json that contradict the tensors, or unknown heads or image size.
    """
    config = file.config or {}
    tensors: Tensors = file.tensors
    if source == "augreg":
        heads = heads or augreg.num_heads(tensors)
        tensors = augreg.to_timm(tensors)
    table = _names(source, tensors, config)
    prefix, encoder = _encoder_tensors(tensors, table)
    inferred = _infer(encoder, table)
    parse = encoder_config.parse_hf if source == "hf" else encoder_config.parse_timm
    stated = parse(config)
    _check_agreement(inferred, stated)
    size, patch = inferred["size"], inferred["patch"]
    name = find_variant(size, patch)
    if variant is not None:
        expected, expected_patch = vit.parse_variant(variant)
        if (dataclasses.replace(expected, heads=0), expected_patch) != (size, patch):
            raise ValueError(
                f"--encoder: {variant} does not match the file, which has "
                f"{name or f'{size} in patches of {patch}'}. Leave the flag out, or "
                "pass the file of that encoder."
            )
        name = variant
    default = vit.parse_variant(name)[0].heads if name else 0
    heads = stated.get("heads") or heads or default
    if not heads or size.width % heads:
        raise ValueError(
            f"{file.path}: unknown number of attention heads for a width of "
            f"{size.width}. Put the source's config.json beside the file, or pass "
            "--encoder=NAME."
        )
    size = dataclasses.replace(size, heads=heads)
    if name and vit.parse_variant(name)[0] != size:
        name = None
    image_size = image_size or stated.get("image_size")
    if image_size is None:
        raise ValueError(
            f"{file.path}: unknown training image size, which the number of position "
            "embeddings does not determine. Put the source's config.json beside the "
            "file, or pass --image_size=SIDE (224 for most)."
        )
    h, w = vit.grid(image_size, patch)
    used, left_out = _partition(tensors, prefix, encoder, table)
    return ImportedEncoder(
        params=param_tree.encoder_from(used, table, patches=h * w),
        variant=name,
        size=size,
        patch=patch,
        image_size=image_size,
        layer_norm_eps=stated.get("layer_norm_eps", _EPS),
        class_token=bool(table.class_token) and table.class_token in encoder,
        loaded=tuple(prefix + name for name in used),
        left_out=left_out,
    )


def find_variant(size: vit.Size, patch: int) -> str | None:
    """Name of the variant of these dimensions, ignoring the number of heads."""
    size = dataclasses.replace(size, heads=0)
    for name, candidate in vit.SIZES.items():
        if dataclasses.replace(candidate, heads=0) == size:
            return f"{name}/{patch}"
    return None


def _names(source: str, tensors: Tensors, config: Mapping[str, Any]) -> Names:
    if source == "hf" and "model_type" in config:
        kind = config["model_type"]
        if kind not in _HF_TYPES:
            raise ValueError(
                f"config.json: model_type {kind!r} is not supported. Expected one of "
                f"{', '.join(_HF_TYPES)}."
            )
        return _HF_TYPES[kind]
    if source == "hf":
        plain = any(f".{tensor_names.HF_VIT.norm_mlp}." in name for name in tensors)
        return tensor_names.HF_VIT if plain else tensor_names.HF_DINOV2
    return tensor_names.DINOV2 if source == "dinov2" else tensor_names.TIMM


def _encoder_tensors(
    tensors: Tensors, table: Names
) -> tuple[str, dict[str, np.ndarray]]:
    """The prefix of the encoder's tensor names, and its tensors without the prefix."""
    suffix = f"{table.embedding}.weight"
    prefixes = [name[: -len(suffix)] for name in tensors if name.endswith(suffix)]
    if len(prefixes) != 1:
        count = "no tensor" if not prefixes else f"{len(prefixes)} tensors"
        raise ValueError(
            f"encoder weights: {count} named {suffix!r}; the first names in the file "
            f"are {', '.join(sorted(tensors)[:3]) or 'none'}. Was it written by "
            f"another library? --from is one of {', '.join(SOURCES)}, release."
        )
    prefix = prefixes[0]
    encoder = {n[len(prefix) :]: a for n, a in tensors.items() if n.startswith(prefix)}
    # With block_chunks DINOv2 writes blocks.CHUNK.N, with N counted over all chunks.
    if any(name.startswith(table.block.format(0) + ".0.") for name in encoder):
        encoder = {_without_chunk(name): a for name, a in encoder.items()}
    return prefix, encoder


def _without_chunk(name: str) -> str:
    first, *rest = name.split(".")
    return ".".join([first, *rest[1:]]) if first == "blocks" else name


def _infer(encoder: Tensors, table: Names) -> dict[str, Any]:
    """Dimensions inferred from the tensors' shapes; heads are 0."""
    kernel = encoder[f"{table.embedding}.weight"]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            f"encoder weights: the patch embedding has shape {kernel.shape}, expected "
            "(D, 3, p, p)."
        )
    depth = param_tree.depth_of(encoder, table)
    if not depth:
        raise ValueError(
            f"encoder weights: no {table.block.format(0)}.{table.norm_attention}. "
            "Expected a file as the library saves it (transformers: save_pretrained); "
            f"for another library, pass another --from ({', '.join(SOURCES)})."
        )
    mlp, gated = param_tree.mlp_of(encoder, table)
    registers = encoder.get(table.registers)
    size = vit.Size(
        width=kernel.shape[0],
        depth=depth,
        heads=0,
        mlp=mlp,
        layer_scale=param_tree.has_layer_scale(encoder, table),
        swiglu=gated,
        registers=0 if registers is None else registers.shape[1],
    )
    return {
        "size": size,
        "patch": kernel.shape[2],
        "width": size.width,
        "depth": size.depth,
        "registers": size.registers,
        "swiglu": gated,
    }


def _check_agreement(inferred: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    for name in sorted(set(inferred) & set(stated)):
        if inferred[name] != stated[name]:
            raise ValueError(
                f"config.json: {name} {stated[name]}, but the tensors have "
                f"{inferred[name]}. Do the two files belong together?"
            )


def _partition(
    tensors: Tensors, prefix: str, encoder: Tensors, table: Names
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The encoder's tensors, and the names of tensors that are known to be unused.

    Raises:
      ValueError: a tensor of the encoder is not supported, so that the features would
        differ.
    """
    used, unused = {}, [name for name in tensors if not name.startswith(prefix)]
    for name, array in encoder.items():
        if name.startswith(table.left_out):
            unused.append(prefix + name)
        elif _is_supported(name, table):
            used[name] = array
        else:
            raise ValueError(
                f"encoder weights: tensor {prefix + name!r} has no counterpart in "
                "this encoder, and without it the features would differ. Networks "
                "with distillation tokens, a norm before the blocks or after pooling, "
                "or relative positions are not supported."
            )
    return used, tuple(sorted(unused))


def _is_supported(name: str, table: Names) -> bool:
    plain = name.removesuffix(".weight").removesuffix(".bias")
    if plain in (table.embedding, table.norm, table.position):
        return True
    if plain in (table.class_token, table.registers):
        return True
    head, _, tail = table.block.partition("{}")
    number, _, within = plain.removeprefix(head).partition(".")
    in_block = {
        *table.qkv, *table.scales, *(n for parts in table.gated for n in parts),
        table.out, table.mlp_in, table.mlp_out, table.norm_attention, table.norm_mlp,
    }  # fmt: skip
    return plain.startswith(head) and number.isdigit() and within + tail in in_block


def describe(encoder: ImportedEncoder) -> dict[str, Any]:
    """The encoder entry of about.json."""
    return {
        "variant": encoder.variant,
        **dataclasses.asdict(encoder.size),
        "patch": encoder.patch,
        "image_size": list(encoder.image_size),
        "grid": list(encoder.grid),
        "layer_norm_eps": encoder.layer_norm_eps,
        "class_token": encoder.class_token,
    }
