"""Encoder weights under the names of Hugging Face's ViT <-> the tree of `vit.py`.

PyTorch's layouts: Linear weight (out, in), convolution (out, in, kh, kw). Ours: Dense
kernel (in, out); the patch embedding is a Dense over (row, column, channel); queries,
keys and values are one Dense; blocks are stacked along a leading axis.
"""

from collections.abc import Mapping

import numpy as np

from fof_jax.shapes import Params

Tensors = Mapping[str, np.ndarray]

_EMBEDDING = "vit.embeddings.patch_embeddings.projection"
_POSITION = "vit.embeddings.position_embeddings"
_NORM = "vit.layernorm"
_LAYER = "vit.encoder.layer"
_QKV = tuple(f"attention.attention.{n}" for n in ("query", "key", "value"))
# our name of a Dense or LayerNorm in a block -> theirs
_DENSE = {
    "out": "attention.output.dense",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
_NORMS = {"norm_attention": "layernorm_before", "norm_mlp": "layernorm_after"}


def encoder_from_hf(tensors: Tensors, *, depth: int) -> Params:
    """Named tensors to the parameters of `vit.ViT`.

    Args:
      tensors: a state dict of an encoder without class token: position embedding
        (1, P, D).
      depth: number of blocks.

    Raises:
      ValueError: a tensor is missing.
    """

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(
                f"encoder weights: tensor {name!r} is missing; there are "
                f"{len(tensors)} others. Expected the names of a Hugging Face ViT with "
                f"{depth} blocks."
            )
        return np.asarray(tensors[name])

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def block(layer: int) -> Params:
        at = f"{_LAYER}.{layer}"
        parts = [dense(f"{at}.{name}") for name in _QKV]
        return {
            "qkv": {
                "kernel": np.concatenate([p["kernel"] for p in parts], axis=1),
                "bias": np.concatenate([p["bias"] for p in parts]),
            },
            **{ours: dense(f"{at}.{theirs}") for ours, theirs in _DENSE.items()},
            **{ours: norm(f"{at}.{theirs}") for ours, theirs in _NORMS.items()},
        }

    kernel = take(f"{_EMBEDDING}.weight")  # [D, C, p, p]
    width = kernel.shape[0]
    return {
        "embedding": {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
            "bias": take(f"{_EMBEDDING}.bias"),
        },
        "position": take(_POSITION)[0],
        "blocks": _stack([block(layer) for layer in range(depth)]),
        "norm": norm(_NORM),
    }


def encoder_to_hf(params: Params, *, patch: int) -> dict[str, np.ndarray]:
    """The inverse of `encoder_from_hf`, exact; also names gradients and moments."""
    out: dict[str, np.ndarray] = {}

    def dense(name: str, part: Params) -> None:
        out[f"{name}.weight"] = np.asarray(part["kernel"]).T
        out[f"{name}.bias"] = np.asarray(part["bias"])

    def norm(name: str, part: Params) -> None:
        out[f"{name}.weight"] = np.asarray(part["scale"])
        out[f"{name}.bias"] = np.asarray(part["bias"])

    kernel = np.asarray(params["embedding"]["kernel"])
    width = kernel.shape[1]
    kernel = kernel.reshape(patch, patch, -1, width).transpose(3, 2, 0, 1)
    out[f"{_EMBEDDING}.weight"] = kernel
    out[f"{_EMBEDDING}.bias"] = np.asarray(params["embedding"]["bias"])
    out[_POSITION] = np.asarray(params["position"])[None]
    norm(_NORM, params["norm"])
    blocks = params["blocks"]
    for layer in range(blocks["qkv"]["bias"].shape[0]):
        at = f"{_LAYER}.{layer}"
        kernels = np.split(np.asarray(blocks["qkv"]["kernel"][layer]), 3, axis=1)
        biases = np.split(np.asarray(blocks["qkv"]["bias"][layer]), 3)
        for name, k, b in zip(_QKV, kernels, biases, strict=True):
            dense(f"{at}.{name}", {"kernel": k, "bias": b})
        for ours, theirs in _DENSE.items():
            part = {n: blocks[ours][n][layer] for n in ("kernel", "bias")}
            dense(f"{at}.{theirs}", part)
        for ours, theirs in _NORMS.items():
            part = {n: blocks[ours][n][layer] for n in ("scale", "bias")}
            norm(f"{at}.{theirs}", part)
    return out


def _stack(trees: list[Params]) -> Params:
    first = trees[0]
    if isinstance(first, dict):
        return {name: _stack([t[name] for t in trees]) for name in first}
    return np.stack(trees)
