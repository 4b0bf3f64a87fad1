"""The .npz files of google-research/vision_transformer (AugReg) <-> PyTorch's layouts.

Names and layouts are Flax's of 2020: kernels (in, out), attention kernels with an axis
for heads, the patch embedding (p, p, C, D). They are renamed to timm's, exactly.
"""

import re
from collections.abc import Callable

import numpy as np

from fof_jax.models.pretrained.param_tree import Tensors

_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")
_OPTIMIZER = "opt/target/"  # in front, in files of a training state
_ATTENTION = "MultiHeadDotProductAttention_1"

Layout = Callable[[np.ndarray], np.ndarray]


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _turned(a: np.ndarray) -> np.ndarray:
    return a.T


_OUTSIDE: dict[str, tuple[str, Layout]] = {
    "embedding/kernel": ("patch_embed.proj.weight", lambda a: a.transpose(3, 2, 0, 1)),
    "embedding/bias": ("patch_embed.proj.bias", _same),
    "cls": ("cls_token", _same),
    "Transformer/posembed_input/pos_embedding": ("pos_embed", _same),
    "Transformer/encoder_norm/scale": ("norm.weight", _same),
    "Transformer/encoder_norm/bias": ("norm.bias", _same),
    "pre_logits/kernel": ("pre_logits.weight", _turned),
    "pre_logits/bias": ("pre_logits.bias", _same),
    "head/kernel": ("head.weight", _turned),
    "head/bias": ("head.bias", _same),
}
_WITHIN: dict[str, tuple[str, Layout]] = {
    "LayerNorm_0/scale": ("norm1.weight", _same),
    "LayerNorm_0/bias": ("norm1.bias", _same),
    "LayerNorm_2/scale": ("norm2.weight", _same),
    "LayerNorm_2/bias": ("norm2.bias", _same),
    "MlpBlock_3/Dense_0/kernel": ("mlp.fc1.weight", _turned),
    "MlpBlock_3/Dense_0/bias": ("mlp.fc1.bias", _same),
    "MlpBlock_3/Dense_1/kernel": ("mlp.fc2.weight", _turned),
    "MlpBlock_3/Dense_1/bias": ("mlp.fc2.bias", _same),
    # (heads, d, D)
    f"{_ATTENTION}/out/kernel": (
        "attn.proj.weight",
        lambda a: a.reshape(-1, a.shape[-1]).T,
    ),
    f"{_ATTENTION}/out/bias": ("attn.proj.bias", _same),
}


def as_timm(tensors: Tensors) -> dict[str, np.ndarray]:
    """AugReg's names and layouts to timm's.

    Raises:
      ValueError: a tensor has a name that the published files do not have, or q, k
        and v are not all there.
    """
    plain = {n.removeprefix(_OPTIMIZER): a for n, a in tensors.items()}
    out: dict[str, np.ndarray] = {}
    for name, array in plain.items():
        found = _BLOCK.fullmatch(name)
        prefix, rest = (f"blocks.{found[1]}.", found[2]) if found else ("", name)
        table = _WITHIN if found else _OUTSIDE
        if rest in table:
            theirs, layout = table[rest]
            out[prefix + theirs] = layout(array)
        elif not rest.startswith(_ATTENTION):
            raise ValueError(
                f"AugReg weights: tensor {name!r} is not of a plain Vision "
                "Transformer. Hybrids with a ResNet and other files are not read."
            )
    depth = sum(name.endswith("/LayerNorm_0/scale") for name in plain)
    for layer in range(depth):
        at = f"Transformer/encoderblock_{layer}/{_ATTENTION}"
        kernels, biases = [], []
        for one in ("query", "key", "value"):
            kernel, bias = (f"{at}/{one}/{part}" for part in ("kernel", "bias"))
            if kernel not in plain or bias not in plain:
                raise ValueError(f"AugReg weights: {kernel!r} or its bias is missing.")
            kernels.append(plain[kernel].reshape(plain[kernel].shape[0], -1).T)
            biases.append(plain[bias].reshape(-1))
        out[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate(kernels)
        out[f"blocks.{layer}.attn.qkv.bias"] = np.concatenate(biases)
    return out


def heads_of(tensors: Tensors) -> int | None:
    """Number of attention heads, which these files tell."""
    for name, array in tensors.items():
        if name.endswith(f"encoderblock_0/{_ATTENTION}/query/kernel"):
            return array.shape[1]
    return None
