"""A model of ours as a folder that Hugging Face's transformers loads, head and all.

| our encoder | theirs | their head reads |
|---|---|---|
| patches alone | I-JEPA, which is the ViT without class token | mean of the patches |
| plain, class token, pooled by it | ViT | class token |
| class token otherwise | DINOv2 (with registers) | both, ours one of them |

LayerScale, where I-JEPA has none, is multiplied into the layer before it.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fof_jax.models import vit
from fof_jax.models.pretrained import param_tree, tensor_names
from fof_jax.types import Params

# model type: (name of the classifier, of the bare encoder)
_CLASSES = {
    "vit": ("ViTForImageClassification", "ViTModel"),
    "ijepa": ("IJepaForImageClassification", "IJepaModel"),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Model"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersModel",
    ),
}


def write(
    folder: Path,
    encoder: vit.ViT,
    params: Params,
    *,
    head: Params | None = None,
    classes: Sequence[str] = (),
    mean: Sequence[float],
    std: Sequence[float],
    color: bool = True,
) -> str:
    """Writes model.safetensors, config.json and preprocessor_config.json.

    Args:
      folder: is made, whole or not at all; may not exist.
      encoder: what the parameters are of.
      params: of the encoder.
      head: kernel (D, J) and bias (J) of a classifier on what the encoder pools; its
        first outputs are those of `classes`, others are left out. None writes the
        encoder alone.
      classes: names of the K outputs.
      mean, std: of the channels, from 0 to 1, as training normalizes images.
      color: False for grayscale standardized per image; transformers has no
        preprocessor for it, so none is written.

    Returns:
      The name of the class in transformers.

    Raises:
      ValueError: the folder exists, or transformers has no such encoder.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already. Pass another --out.")
    kind = model_type(encoder, with_head=head is not None)
    tensors = tensors_of(encoder, params, kind)
    if head is not None:
        tensors = {f"{kind}.{name}": a for name, a in tensors.items()}
        tensors |= _head(encoder, head, kind, len(classes))
    config = _config(encoder, kind, head is not None, classes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        whole = staging / folder.name  # mkdtemp's own mode admits the owner only
        whole.mkdir()
        named = {n: np.array(a, np.float32, order="C") for n, a in tensors.items()}
        # transformers asks for this mark.
        safetensors.numpy.save_file(
            named, whole / "model.safetensors", metadata={"format": "pt"}
        )
        (whole / "model.safetensors").chmod(0o644)
        _write(whole / "config.json", config)
        if color:
            _write(
                whole / "preprocessor_config.json", _preprocessor(encoder, mean, std)
            )
        whole.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return config["architectures"][0]


def model_type(encoder: vit.ViT, *, with_head: bool = True) -> str:
    """Which of transformers' models is this encoder.

    Raises:
      ValueError: none.
    """
    size = encoder.size
    if not encoder.class_token:
        if size.registers or size.swiglu:
            raise ValueError(
                "export: transformers has no encoder with registers or SwiGLU and "
                "without a class token. Train with --config.init.class_token=keep."
            )
        return "ijepa"
    plain = not (size.layer_scale or size.registers or size.swiglu)
    if plain and (encoder.pooling == "class_token" or not with_head):
        return "vit"
    return "dinov2_with_registers" if size.registers else "dinov2"


def tensors_of(encoder: vit.ViT, params: Params, kind: str) -> dict[str, np.ndarray]:
    """The encoder under transformers' names, without their prefix."""
    dinov2 = kind.startswith("dinov2")
    if encoder.size.layer_scale and not dinov2:
        params = _folded(params)
    out = param_tree.encoder_to(
        params,
        tensor_names.HF_DINOV2 if dinov2 else tensor_names.HF_VIT,
        patch=encoder.patch,
        class_token=encoder.class_token,
    )
    if not dinov2:
        return out
    width = encoder.size.width
    for layer in range(encoder.size.depth):  # a plain ViT is one scaled by 1
        for scale in tensor_names.HF_DINOV2.scales:
            at = f"{tensor_names.HF_DINOV2.block.format(layer)}.{scale}"
            out.setdefault(at, np.ones(width, np.float32))
    return out | {"embeddings.mask_token": np.zeros((1, width), np.float32)}


def _folded(params: Params) -> Params:
    blocks = dict(params["blocks"])
    for scale, layer in (("scale_attention", "out"), ("scale_mlp", "mlp_out")):
        by = np.asarray(blocks.pop(scale))  # [L, D]
        blocks[layer] = {
            "kernel": np.asarray(blocks[layer]["kernel"]) * by[:, None],
            "bias": np.asarray(blocks[layer]["bias"]) * by,
        }
    return {**params, "blocks": blocks}


def _head(
    encoder: vit.ViT, head: Params, kind: str, classes: int
) -> dict[str, np.ndarray]:
    weight = np.asarray(head["kernel"]).T[:classes]  # [K, D]
    if kind.startswith("dinov2"):
        other = np.zeros_like(weight)
        first = encoder.pooling == "class_token"
        weight = np.hstack([weight, other] if first else [other, weight])
    bias = np.asarray(head["bias"])[:classes]
    return {"classifier.weight": weight, "classifier.bias": bias}


def _config(
    encoder: vit.ViT, kind: str, with_head: bool, classes: Sequence[str]
) -> dict[str, Any]:
    size = encoder.size
    height, width = encoder.image_size
    config: dict[str, Any] = {
        "architectures": [_CLASSES[kind][0 if with_head else 1]],
        "model_type": kind,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.patch,
        "num_channels": 3,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": encoder.layer_norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
    }
    if with_head:
        config["id2label"] = {str(k): name for k, name in enumerate(classes)}
        config["label2id"] = {name: k for k, name in enumerate(classes)}
    if not kind.startswith("dinov2"):
        return config | {"intermediate_size": size.mlp}
    # A gated MLP has two thirds of the plain one's width, up to a multiple of 8.
    ratio = 4 if size.swiglu else size.mlp // size.width
    mlp = (int(ratio * size.width * 2 / 3) + 7) // 8 * 8 if size.swiglu else (
        ratio * size.width
    )  # fmt: skip
    if mlp != size.mlp:
        raise ValueError(
            f"export: DINOv2 in transformers has an MLP {mlp} wide where this one is "
            f"{size.mlp}."
        )
    config |= {"mlp_ratio": ratio, "use_swiglu_ffn": size.swiglu}
    return config | ({"num_register_tokens": size.registers} if size.registers else {})


def _preprocessor(
    encoder: vit.ViT, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    height, width = encoder.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [float(m) for m in mean],
        "image_std": [float(s) for s in std],
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
