"""Exact conversion between PyTorch state dicts and the parameter tree of `vit.ViT`.

PyTorch: Linear weight (out, in), convolution weight (out, in, kh, kw). Here: Dense
kernel (in, out); the patch embedding is a Dense over (row, column, channel); queries,
keys and values are one Dense; blocks are stacked along a leading axis. The class token
and the registers are one array `ahead`, with their position embeddings added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fof_jax.models.pretrained.tensor_names import Names
from fof_jax.types import Params

Tensors = Mapping[str, np.ndarray]
_SCALES = ("scale_attention", "scale_mlp")


def encoder_from(tensors: Tensors, names: Names, *, patches: int) -> Params:
    """Converts named tensors to the parameters of `vit.ViT`.

    Args:
      tensors: tensors of one encoder, without name prefix.
      names: naming scheme.
      patches: P at the training image size: the number of patch rows in the position
        embedding. The other rows are those of the class token and, if there are
        more, of the registers.

    Raises:
      ValueError: missing tensor, or unexpected number of position embeddings.
    """

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(
                f"encoder weights: tensor {name!r} is missing among {len(tensors)} "
                "tensors. Expected a Vision Transformer with blocks named "
                f"{names.block.format('N')}."
            )
        return np.asarray(tensors[name])

    def dense(*parts: str) -> dict[str, np.ndarray]:
        kernels = [take(f"{name}.weight").T for name in parts]
        # Some encoders have no bias for q, k and v, which is a bias of 0.
        no_bias = not any(f"{name}.bias" in tensors for name in parts)
        biases = [
            np.zeros_like(kernel[0])
            if no_bias and parts[0].endswith(names.qkv)
            else take(f"{name}.bias")
            for name, kernel in zip(parts, kernels, strict=True)
        ]
        kernel, bias = np.concatenate(kernels, axis=1), np.concatenate(biases)
        return {"kernel": kernel, "bias": bias}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def block(layer: int) -> Params:
        prefix = f"{names.block.format(layer)}."
        *mlp_in, mlp_out = _mlp(tensors, names, prefix)
        tree: dict[str, Any] = {
            "qkv": dense(*[prefix + name for name in names.qkv]),
            "out": dense(prefix + names.out),
            "mlp_in": dense(*[prefix + name for name in mlp_in]),
            "mlp_out": dense(prefix + mlp_out),
            "norm_attention": norm(prefix + names.norm_attention),
            "norm_mlp": norm(prefix + names.norm_mlp),
        }
        if has_layer_scale(tensors, names):
            for ours, theirs in zip(_SCALES, names.scales, strict=True):
                tree[ours] = take(prefix + theirs)
        return tree

    kernel = take(f"{names.embedding}.weight")  # [D, C, p, p]
    ahead = [
        take(name)[0]
        for name in (names.class_token, names.registers)
        if name in tensors
    ]  # each [n, D]
    position, ahead = _positions(take(names.position)[0], ahead, patches)
    tree = {
        "embedding": {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]),
            "bias": take(f"{names.embedding}.bias"),
        },
        "position": position,
        "blocks": _stack([block(layer) for layer in range(depth_of(tensors, names))]),
        "norm": norm(names.norm),
    }
    return tree | ({"ahead": np.concatenate(ahead)} if ahead else {})


def encoder_to(
    params: Params, names: Names, *, patch: int, class_token: bool = False
) -> dict[str, np.ndarray]:
    """Inverse of `encoder_from`; also for gradients and optimizer moments.

    Exact, except that the class token includes its position embedding and has a row of
    zeros in `position`. SwiGLU and LayerScale require `names` that have them.
    """
    out: dict[str, np.ndarray] = {}

    def dense(parts: Sequence[str], tree: Params) -> None:
        kernels = np.split(np.asarray(tree["kernel"]), len(parts), axis=-1)
        biases = np.split(np.asarray(tree["bias"]), len(parts), axis=-1)
        for name, kernel, bias in zip(parts, kernels, biases, strict=True):
            out[f"{name}.weight"], out[f"{name}.bias"] = kernel.T, bias

    def norm(name: str, tree: Params) -> None:
        out[f"{name}.weight"] = np.asarray(tree["scale"])
        out[f"{name}.bias"] = np.asarray(tree["bias"])

    kernel = np.asarray(params["embedding"]["kernel"])
    kernel = kernel.reshape(patch, patch, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
    out[f"{names.embedding}.weight"] = kernel
    out[f"{names.embedding}.bias"] = np.asarray(params["embedding"]["bias"])
    position = np.asarray(params["position"])
    if class_token:
        out[names.class_token] = np.asarray(params["ahead"])[None, :1]
        position = np.concatenate([np.zeros_like(position[:1]), position])
    out[names.position] = position[None]
    if len(params.get("ahead", ())) > class_token:
        out[names.registers] = np.asarray(params["ahead"])[None, int(class_token) :]
    norm(names.norm, params["norm"])
    blocks = params["blocks"]
    gated = (
        blocks["mlp_in"]["kernel"].shape[2] == 2 * blocks["mlp_out"]["kernel"].shape[1]
    )
    for layer in range(blocks["qkv"]["bias"].shape[0]):
        prefix = f"{names.block.format(layer)}."
        tree = _layer(blocks, layer)
        *mlp_in, mlp_out = names.gated[0] if gated else (names.mlp_in, names.mlp_out)
        dense([prefix + name for name in names.qkv], tree["qkv"])
        dense([prefix + names.out], tree["out"])
        dense([prefix + name for name in mlp_in], tree["mlp_in"])
        dense([prefix + mlp_out], tree["mlp_out"])
        norm(prefix + names.norm_attention, tree["norm_attention"])
        norm(prefix + names.norm_mlp, tree["norm_mlp"])
        if _SCALES[0] in tree:
            for ours, theirs in zip(_SCALES, names.scales, strict=True):
                out[prefix + theirs] = np.asarray(tree[ours])
    return out


def depth_of(tensors: Tensors, names: Names) -> int:
    """Number of consecutive blocks from 0 that have a first LayerNorm."""
    depth = 0
    while f"{names.block.format(depth)}.{names.norm_attention}.weight" in tensors:
        depth += 1
    return depth


def has_layer_scale(tensors: Tensors, names: Names) -> bool:
    """Whether block 0 has LayerScale."""
    prefix = f"{names.block.format(0)}."
    return any(prefix + name in tensors for name in names.scales)


def mlp_of(tensors: Tensors, names: Names) -> tuple[int, bool]:
    """Hidden width of the MLP of block 0, and whether it is gated."""
    prefix = f"{names.block.format(0)}."
    *mlp_in, mlp_out = _mlp(tensors, names, prefix)
    hidden = sum(tensors[f"{prefix}{name}.weight"].shape[0] for name in mlp_in)
    width = tensors[f"{prefix}{mlp_out}.weight"].shape[1]
    return width, hidden == 2 * width


def _mlp(tensors: Tensors, names: Names, prefix: str) -> tuple[str, ...]:
    """Names of the MLP layers of a block, in order."""
    for parts in (*names.gated, (names.mlp_in, names.mlp_out)):
        if all(f"{prefix}{name}.weight" in tensors for name in parts):
            return parts
    return names.mlp_in, names.mlp_out


def _positions(
    rows: np.ndarray, ahead: list[np.ndarray], patches: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Splits position embeddings into those of the patches and of prepended tokens.

    Returns the patches' rows, and the prepended tokens with their rows added.
    """
    counts = [len(token) for token in ahead]
    for embedded in range(len(ahead) + 1):
        offset = sum(counts[:embedded])
        if len(rows) == offset + patches:
            starts = np.cumsum([0, *counts])
            tokens = [
                token + rows[start : start + len(token)] if i < embedded else token
                for i, (token, start) in enumerate(zip(ahead, starts, strict=False))
            ]
            return rows[offset:], tokens
    raise ValueError(
        f"encoder weights: the position embedding has {len(rows)} rows, expected "
        f"{patches} for the patches and up to {sum(counts)} for the "
        f"{sum(counts)} prepended tokens. Was it trained at another image size? "
        "Pass --image_size=SIDE."
    )


def _layer(blocks: Params, layer: int) -> Any:
    if isinstance(blocks, Mapping):
        return {name: _layer(tree, layer) for name, tree in blocks.items()}
    return blocks[layer]


def _stack(trees: list[Params]) -> Params:
    first = trees[0]
    if isinstance(first, dict):
        return {name: _stack([t[name] for t in trees]) for name in first}
    return np.stack(trees)
