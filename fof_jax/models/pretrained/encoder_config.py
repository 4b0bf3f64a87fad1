"""Reads encoder fields from the config.json of Hugging Face or timm."""

from collections.abc import Mapping
from typing import Any

ImageSize = tuple[int, int]


def parse_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Hugging Face config.json, under this package's names."""
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu" and not config.get("use_swiglu_ffn"):
        raise ValueError(
            f"config.json: hidden_act {activation!r} is not supported; expected 'gelu' "
            "(the exact one) or SwiGLU."
        )
    fields = {
        "heads": "num_attention_heads",
        "layer_norm_eps": "layer_norm_eps",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "patch": "patch_size",
        "registers": "num_register_tokens",
        "swiglu": "use_swiglu_ffn",
    }
    parsed = {ours: config[name] for ours, name in fields.items() if name in config}
    if "image_size" in config:
        parsed["image_size"] = _image_size(config["image_size"])
    return parsed


def parse_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """The image size, the only field taken from a timm config.json."""
    arguments = config.get("model_args") or {}
    if arguments.get("act_layer") not in (None, "gelu", "GELU", "silu", "SiLU"):
        raise ValueError(
            f"config.json: act_layer {arguments['act_layer']!r} is not supported."
        )
    if "img_size" in arguments:
        return {"image_size": _image_size(arguments["img_size"])}
    shape = (config.get("pretrained_cfg") or {}).get("input_size")
    return {"image_size": _image_size(shape[1:])} if shape else {}


def _image_size(value: Any) -> ImageSize:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)
