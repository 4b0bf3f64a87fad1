"""Converts .npz files of google-research/vision_transformer (AugReg) to timm's names.

Their layouts are those of Flax in 2020: kernels (in, out), attention kernels with an
axis for heads, the patch embedding (p, p, C, D). The conversion is exact.
"""

import re
from collections.abc import Callable

import numpy as np

from fof_jax.models.pretrained.param_tree import Tensors

_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")
_OPTIMIZER = "opt/target/"  # prefix in files of a training state
_ATTENTION = "MultiHeadDotProductAttention_1"

Layout = Callable[[np.ndarray], np.ndarray]


def _identity(a: np.ndarray) -> np.ndarray:
    return a


def _transpose(a: np.ndarray) -> np.ndarray:
    return a.T


_TOP_LEVEL: dict[str, tuple[str, Layout]] = {
    "embedding/kernel": ("patch_embed.proj.weight", lambda a: a.transpose(3, 2, 0, 1)),
    "embedding/bias": ("patch_embed.proj.bias", _identity),
    "cls": ("cls_token", _identity),
    "Transformer/posembed_input/pos_embedding": ("pos_embed", _identity),
    "Transformer/encoder_norm/scale": ("norm.weight", _identity),
    "Transformer/encoder_norm/bias": ("norm.bias", _identity),
    "pre_logits/kernel": ("pre_logits.weight", _transpose),
    "pre_logits/bias": ("pre_logits.bias", _identity),
    "head/kernel": ("head.weight", _transpose),
    "head/bias": ("head.bias", _identity),
}
_IN_BLOCK: dict[str, tuple[str, Layout]] = {
    "LayerNorm_0/scale": ("norm1.weight", _identity),
    "LayerNorm_0/bias": ("norm1.bias", _identity),
    "LayerNorm_2/scale": ("norm2.weight", _identity),
    "LayerNorm_2/bias": ("norm2.bias", _identity),
    "MlpBlock_3/Dense_0/kernel": ("mlp.fc1.weight", _transpose),
    "MlpBlock_3/Dense_0/bias": ("mlp.fc1.bias", _identity),
    "MlpBlock_3/Dense_1/kernel": ("mlp.fc2.weight", _transpose),
    "MlpBlock_3/Dense_1/bias": ("mlp.fc2.bias", _identity),
    # (heads, d, D)
    f"{_ATTENTION}/out/kernel": (
        "attn.proj.weight",
        lambda a: a.reshape(-1, a.shape[-1]).T,
    ),
    f"{_ATTENTION}/out/bias": ("attn.proj.bias", _identity),
}


def to_timm(tensors: Tensors) -> dict[str, np.ndarray]:
    """Converts AugReg's names and layouts to timm's.

    Raises:
      ValueError: a tensor name that the published files do not have, or a missing
        tensor of q, k or v.
    """
    plain = {n.removeprefix(_OPTIMIZER): a for n, a in tensors.items()}
    out: dict[str, np.ndarray] = {}
    for name, array in plain.items():
        match = _BLOCK.fullmatch(name)
        prefix, rest = (f"blocks.{match[1]}.", match[2]) if match else ("", name)
        table = _IN_BLOCK if match else _TOP_LEVEL
        if rest in table:
            timm_name, layout = table[rest]
            out[prefix + timm_name] = layout(array)
        elif not rest.startswith(_ATTENTION):
            raise ValueError(
                f"AugReg weights: tensor {name!r} is not of a plain Vision "
                "Transformer. Hybrids with a ResNet are not supported."
            )
    depth = sum(name.endswith("/LayerNorm_0/scale") for name in plain)
    for layer in range(depth):
        prefix = f"Transformer/encoderblock_{layer}/{_ATTENTION}"
        kernels, biases = [], []
        for projection in ("query", "key", "value"):
            kernel, bias = (
                f"{prefix}/{projection}/{part}" for part in ("kernel", "bias")
            )
            if kernel not in plain or bias not in plain:
                raise ValueError(f"AugReg weights: {kernel!r} or its bias is missing.")
            kernels.append(plain[kernel].reshape(plain[kernel].shape[0], -1).T)
            biases.append(plain[bias].reshape(-1))
        out[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate(kernels)
        out[f"blocks.{layer}.attn.qkv.bias"] = np.concatenate(biases)
    return out


def num_heads(tensors: Tensors) -> int | None:
    """Number of attention heads, from the shape of the query kernel."""
    for name, array in tensors.items():
        if name.endswith(f"encoderblock_0/{_ATTENTION}/query/kernel"):
            return array.shape[1]
    return None
