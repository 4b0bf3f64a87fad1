"""Exports a model as a folder for Hugging Face's transformers.

| encoder | transformers model | input of the classifier |
|---|---|---|
| patches only | I-JEPA, a ViT without class token | mean of the patches |
| plain, class token, pooled by it | ViT | class token |
| class token otherwise | DINOv2 (with registers) | both; one has zero weights |

I-JEPA has no LayerScale; it is folded into the preceding layer.
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

# model type: (class with classifier, class of the encoder alone)
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
    stain: str = "none",
) -> str:
    """Writes model.safetensors, config.json and preprocessor_config.json.

    Args:
      folder: created atomically; must not exist.
      encoder: the module of the parameters.
      params: parameters of the encoder.
      head: kernel (D, J) and bias (J) of a classifier on the pooled features; the
        first K outputs are those of `classes`, the others are dropped. None writes
        the encoder alone.
      classes: names of the K outputs.
      mean, std: channel mean and std of the normalization, for pixels in 0 … 1.
      color: False for grayscale images standardized per image; transformers has no
        such preprocessor, so preprocessor_config.json is not written.
      stain: stain normalization that images need before, named in
        preprocessor_config.json because no processor of transformers does it.

    Returns:
      The class name in transformers.

    Raises:
      ValueError: the folder exists, or transformers has no such architecture.
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
        complete = staging / folder.name  # a new folder: mkdtemp's has mode 0700
        complete.mkdir()
        arrays = {n: np.array(a, np.float32, order="C") for n, a in tensors.items()}
        # transformers requires this metadata.
        safetensors.numpy.save_file(
            arrays, complete / "model.safetensors", metadata={"format": "pt"}
        )
        (complete / "model.safetensors").chmod(0o644)
        _write(complete / "config.json", config)
        if color:
            processor = _preprocessor(encoder, mean, std, stain)
            _write(complete / "preprocessor_config.json", processor)
        complete.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return config["architectures"][0]


def model_type(encoder: vit.ViT, *, with_head: bool = True) -> str:
    """Model type of the encoder in transformers.

    Raises:
      ValueError: there is none.
    """
    size = encoder.size
    if not encoder.class_token:
        if size.registers or size.swiglu:
            raise ValueError(
                "export: transformers has no encoder with registers or SwiGLU but "
                "without a class token. Train with --config.init.class_token=keep."
            )
        return "ijepa"
    plain = not (size.layer_scale or size.registers or size.swiglu)
    if plain and (encoder.pooling == "class_token" or not with_head):
        return "vit"
    return "dinov2_with_registers" if size.registers else "dinov2"


def tensors_of(encoder: vit.ViT, params: Params, kind: str) -> dict[str, np.ndarray]:
    """The encoder's tensors under transformers' names, without prefix."""
    dinov2 = kind.startswith("dinov2")
    if encoder.size.layer_scale and not dinov2:
        params = _fold_layer_scale(params)
    out = param_tree.encoder_to(
        params,
        tensor_names.HF_DINOV2 if dinov2 else tensor_names.HF_VIT,
        patch=encoder.patch,
        class_token=encoder.class_token,
    )
    if not dinov2:
        return out
    width = encoder.size.width
    for layer in range(encoder.size.depth):  # a plain ViT has LayerScale 1
        for scale in tensor_names.HF_DINOV2.scales:
            name = f"{tensor_names.HF_DINOV2.block.format(layer)}.{scale}"
            out.setdefault(name, np.ones(width, np.float32))
    return out | {"embeddings.mask_token": np.zeros((1, width), np.float32)}


def _fold_layer_scale(params: Params) -> Params:
    """Multiplies LayerScale into the layer before it."""
    blocks = dict(params["blocks"])
    for scale, layer in (("scale_attention", "out"), ("scale_mlp", "mlp_out")):
        factor = np.asarray(blocks.pop(scale))  # [L, D]
        blocks[layer] = {
            "kernel": np.asarray(blocks[layer]["kernel"]) * factor[:, None],
            "bias": np.asarray(blocks[layer]["bias"]) * factor,
        }
    return {**params, "blocks": blocks}


def _head(
    encoder: vit.ViT, head: Params, kind: str, classes: int
) -> dict[str, np.ndarray]:
    weight = np.asarray(head["kernel"]).T[:classes]  # [K, D]
    if kind.startswith("dinov2"):
        # DINOv2's classifier reads the class token and the mean of the patches.
        zeros = np.zeros_like(weight)
        class_token = encoder.pooling == "class_token"
        weight = np.hstack([weight, zeros] if class_token else [zeros, weight])
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
    # A gated MLP has two thirds of the plain width, rounded up to a multiple of 8.
    ratio = 4 if size.swiglu else size.mlp // size.width
    mlp = (int(ratio * size.width * 2 / 3) + 7) // 8 * 8 if size.swiglu else (
        ratio * size.width
    )  # fmt: skip
    if mlp != size.mlp:
        raise ValueError(
            f"export: DINOv2 in transformers has an MLP width of {mlp}, this encoder "
            f"{size.mlp}. Expected equal widths; this encoder cannot be exported."
        )
    config |= {"mlp_ratio": ratio, "use_swiglu_ffn": size.swiglu}
    return config | ({"num_register_tokens": size.registers} if size.registers else {})


def _preprocessor(
    encoder: vit.ViT, mean: Sequence[float], std: Sequence[float], stain: str
) -> dict[str, Any]:
    height, width = encoder.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic, as in training
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [float(m) for m in mean],
        "image_std": [float(s) for s in std],
        # Not done by the processor: what has to be done before it.
        "stain_normalization": stain,
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
