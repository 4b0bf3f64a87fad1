"""What a weights file is of, and its encoder as the parameters of `vit.ViT`.

What tensors do not tell comes from the source's config.json or from the user: the
image size, which says how many rows of the position embedding are patches, the number
of heads, and the eps of LayerNorm.
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
from fof_jax.models.pretrained.encoder_config import Side
from fof_jax.models.pretrained.param_tree import Tensors
from fof_jax.models.pretrained.tensor_names import Names
from fof_jax.types import Params

PROGRAMS = ("hf", "timm", "augreg", "dinov2")
# Hugging Face's model types that are read, and the names that they use.
_HF_TYPES = {
    "vit": tensor_names.HF_VIT,
    "ijepa": tensor_names.HF_VIT,
    "dinov2": tensor_names.HF_DINOV2,
    "dinov2_with_registers": tensor_names.HF_DINOV2,
}
_EPS = 1e-6  # of timm, AugReg and DINOv2, and of most files of Hugging Face


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder that was read.

    Attributes:
      params: of `vit.ViT`; `ahead` holds a class token, if any, and registers.
      variant: its name with the patch, such as "Ti/16"; None where no variant has
        these numbers.
      size: the numbers.
      patch: p.
      image_size: H, W at which it was trained.
      layer_norm_eps: of the source.
      class_token: whether `ahead` begins with one.
      loaded: the source's tensors that are in `params`.
      left_out: the others.
    """

    params: Params
    variant: str | None
    size: vit.Size
    patch: int
    image_size: Side
    layer_norm_eps: float
    class_token: bool
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def grid(self) -> Side:
        """Rows and columns of its position embedding."""
        return vit.grid(self.image_size, self.patch)


def encoder(
    found: weight_files.Found,
    program: str,
    *,
    variant: str | None = None,
    image_size: Side | None = None,
    heads: int | None = None,
) -> Encoder:
    """The encoder in a file.

    Args:
      found: what `files.read` gave.
      program: whose names it has, one of `PROGRAMS`.
      variant: a name of `vit.SIZES` with a patch; where config.json is missing it
        tells the heads. None takes the variant with the same numbers.
      image_size: H, W; None takes that of config.json.
      heads: for sizes that are no variant; None takes config.json's, or the variant's.

    Raises:
      ValueError: the file is of another kind of network, a tensor is missing or has no
        place, what was said contradicts the tensors, or heads or image size are
        neither in a config.json nor given.
    """
    config = found.config or {}
    tensors: Tensors = found.tensors
    if program == "augreg":
        heads = heads or augreg.heads_of(tensors)
        tensors = augreg.as_timm(tensors)
    table = _names(program, tensors, config)
    start, own = _own(tensors, table)
    measured = _measure(own, table)
    read = encoder_config.hf if program == "hf" else encoder_config.timm
    said = read(config)
    _agree(measured, said)
    size, patch = measured["size"], measured["patch"]
    named = variant_of(size, patch)
    if variant is not None:
        wanted, at = vit.variant(variant)
        if (dataclasses.replace(wanted, heads=0), at) != (size, patch):
            is_ = named or f"{size} in patches of {patch}"
            raise ValueError(
                f"--encoder: {variant} has other numbers than the file, which is of "
                f"{is_}. Leave the flag out, or get the other file."
            )
        named = variant
    heads = said.get("heads") or heads or (vit.variant(named)[0].heads if named else 0)
    if not heads or size.width % heads:
        raise ValueError(
            f"{found.path}: the number of attention heads is not known for a width of "
            f"{size.width}. Put the source's config.json beside the file, or pass "
            "--encoder=NAME."
        )
    size = dataclasses.replace(size, heads=heads)
    if named and vit.variant(named)[0] != size:
        named = None
    side = image_size or said.get("image_size")
    if side is None:
        raise ValueError(
            f"{found.path}: at which image size it was trained is not known, and the "
            "number of position embeddings is no proof of it. Put the source's "
            "config.json beside the file, or pass --image_size=SIDE (224 for most)."
        )
    h, w = vit.grid(side, patch)
    kept, left_out = _divide(tensors, start, own, table)
    return Encoder(
        params=param_tree.encoder_from(kept, table, patches=h * w),
        variant=named,
        size=size,
        patch=patch,
        image_size=side,
        layer_norm_eps=said.get("layer_norm_eps", _EPS),
        class_token=bool(table.class_token) and table.class_token in own,
        loaded=tuple(start + name for name in kept),
        left_out=left_out,
    )


def variant_of(size: vit.Size, patch: int) -> str | None:
    """The name of the variant with these numbers, heads aside."""
    for name, known in vit.SIZES.items():
        if dataclasses.replace(known, heads=0) == dataclasses.replace(size, heads=0):
            return f"{name}/{patch}"
    return None


def _names(program: str, tensors: Tensors, config: Mapping[str, Any]) -> Names:
    if program == "hf" and "model_type" in config:
        kind = config["model_type"]
        if kind not in _HF_TYPES:
            raise ValueError(
                f"config.json: model_type {kind!r} is not read. Expected one of "
                f"{', '.join(_HF_TYPES)}."
            )
        return _HF_TYPES[kind]
    if program == "hf":
        plain = any(f".{tensor_names.HF_VIT.norm_mlp}." in name for name in tensors)
        return tensor_names.HF_VIT if plain else tensor_names.HF_DINOV2
    return tensor_names.DINOV2 if program == "dinov2" else tensor_names.TIMM


def _own(tensors: Tensors, table: Names) -> tuple[str, dict[str, np.ndarray]]:
    """What stands in front of the encoder's names, and its tensors without it."""
    end = f"{table.embedding}.weight"
    starts = [name[: -len(end)] for name in tensors if name.endswith(end)]
    if len(starts) != 1:
        fault = "no tensor" if not starts else f"{len(starts)} tensors"
        raise ValueError(
            f"encoder weights: {fault} named {end!r}; the file begins with "
            f"{', '.join(sorted(tensors)[:3]) or 'nothing'}. Is it of another program? "
            f"--from is one of {', '.join(PROGRAMS)}, release."
        )
    start = starts[0]
    own = {n[len(start) :]: a for n, a in tensors.items() if n.startswith(start)}
    # With block_chunks DINOv2 writes blocks.CHUNK.N, N counting on over all chunks.
    if _chunked(own, table):
        own = {_without_chunk(name): a for name, a in own.items()}
    return start, own


def _chunked(own: Tensors, table: Names) -> bool:
    """Whether blocks are numbered within chunks."""
    head = table.block.format(0) + ".0."
    return any(name.startswith(head) for name in own)


def _without_chunk(name: str) -> str:
    first, *rest = name.split(".")
    return ".".join([first, *rest[1:]]) if first == "blocks" else name


def _measure(own: Tensors, table: Names) -> dict[str, Any]:
    """What the tensors' shapes tell; heads are 0."""
    kernel = own[f"{table.embedding}.weight"]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            f"encoder weights: the patch embedding has shape {kernel.shape}, expected "
            "(D, 3, p, p)."
        )
    depth = param_tree.depth_of(own, table)
    if not depth:
        raise ValueError(
            f"encoder weights: no {table.block.format(0)}.{table.norm_attention}. "
            "Expected a file as the program saves it (transformers: save_pretrained); "
            f"of another program, pass another --from ({', '.join(PROGRAMS)})."
        )
    mlp, gated = param_tree.mlp_of(own, table)
    registers = own.get(table.registers)
    size = vit.Size(
        width=kernel.shape[0],
        depth=depth,
        heads=0,
        mlp=mlp,
        layer_scale=param_tree.has_layer_scale(own, table),
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


def _agree(measured: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    for name in sorted(set(measured) & set(said)):
        if measured[name] != said[name]:
            raise ValueError(
                f"config.json: {name} {said[name]}, but the tensors have "
                f"{measured[name]}. Do the two files belong together?"
            )


def _divide(
    tensors: Tensors, start: str, own: Tensors, table: Names
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The encoder's tensors, and the names of the rest, which must be known to be one.

    Raises:
      ValueError: a tensor belongs to the encoder and is not read: the features would
        be others.
    """
    kept, out = {}, [name for name in tensors if not name.startswith(start)]
    for name, array in own.items():
        if name.startswith(table.left_out):
            out.append(start + name)
        elif _known(name, table):
            kept[name] = array
        else:
            raise ValueError(
                f"encoder weights: tensor {start + name!r} has no place in this "
                "encoder, and without it the features would be others. Networks with "
                "distillation tokens, a norm before the blocks or after pooling, or "
                "relative positions are not read."
            )
    return kept, tuple(sorted(out))


def _known(name: str, table: Names) -> bool:
    plain = name.removesuffix(".weight").removesuffix(".bias")
    if plain in (table.embedding, table.norm, table.position):
        return True
    if plain in (table.class_token, table.registers):
        return True
    head, _, tail = table.block.partition("{}")
    number, _, within = plain.removeprefix(head).partition(".")
    known = {
        *table.qkv, *table.scales, *(n for parts in table.gated for n in parts),
        table.out, table.mlp_in, table.mlp_out, table.norm_attention, table.norm_mlp,
    }  # fmt: skip
    return plain.startswith(head) and number.isdigit() and within + tail in known


def describe(read: Encoder) -> dict[str, Any]:
    """JSON values for about.json."""
    return {
        "variant": read.variant,
        **dataclasses.asdict(read.size),
        "patch": read.patch,
        "image_size": list(read.image_size),
        "grid": list(read.grid),
        "layer_norm_eps": read.layer_norm_eps,
        "class_token": read.class_token,
    }
