"""What the config.json beside a weights file says of its encoder, under our names."""

from collections.abc import Mapping
from typing import Any

Side = tuple[int, int]


def hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json of Hugging Face says, under our names."""
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu" and not config.get("use_swiglu_ffn"):
        raise ValueError(
            f"config.json: hidden_act {activation!r} is not built here, only 'gelu' "
            "(the exact one) and SwiGLU."
        )
    wanted = {
        "heads": "num_attention_heads",
        "layer_norm_eps": "layer_norm_eps",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "patch": "patch_size",
        "registers": "num_register_tokens",
        "swiglu": "use_swiglu_ffn",
    }
    said = {ours: config[name] for ours, name in wanted.items() if name in config}
    if "image_size" in config:
        said["image_size"] = _side(config["image_size"])
    return said


def timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json of timm says: the image size alone."""
    arguments = config.get("model_args") or {}
    if arguments.get("act_layer") not in (None, "gelu", "GELU", "silu", "SiLU"):
        raise ValueError(
            f"config.json: act_layer {arguments['act_layer']!r} is not built here."
        )
    if "img_size" in arguments:
        return {"image_size": _side(arguments["img_size"])}
    shape = (config.get("pretrained_cfg") or {}).get("input_size")
    return {"image_size": _side(shape[1:])} if shape else {}


def _side(value: Any) -> Side:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)
