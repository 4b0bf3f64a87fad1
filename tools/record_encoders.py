"""Records residual streams of small encoders of transformers and timm, for the tests.

    pip install torch transformers timm
    python tools/record_encoders.py tests/golden/encoders.npz

Encoders with random weights under the libraries' tensor names, an image, and the
residual stream after every block and the final norm, in float32. timm installs
torchvision, which may replace torch: use a separate environment.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from safetensors.numpy import load_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer

# name: (model type, further fields, image sizes)
HF = {
    "vit": ("vit", {"image_size": [16, 24], "intermediate_size": 40}, [(16, 24)]),
    "ijepa": ("ijepa", {"image_size": 16, "intermediate_size": 40}, [(16, 16)]),
    "dinov2": ("dinov2", {"image_size": 20}, [(20, 20), (32, 32), (12, 16)]),
    "swiglu": ("dinov2", {"image_size": 16, "use_swiglu_ffn": True}, [(16, 16)]),
    "registers": (
        "dinov2_with_registers",
        {"image_size": 16, "num_register_tokens": 3},
        [(16, 16)],
    ),
}
SHARED = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "patch_size": 4, "mlp_ratio": 2,
}  # fmt: skip
TIMM = {
    "timm_plain": {},
    "timm_reg": {"reg_tokens": 2, "init_values": 1e-5},
    "timm_no_embed_class": {"no_embed_class": True, "qkv_bias": False},
    "timm_swiglu": {
        "mlp_layer": SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "init_values": 1e-5,
        "mlp_ratio": 4,
    },
}


def main(out: Path) -> None:
    """Writes the recording."""
    torch.manual_seed(0)
    with torch.no_grad():
        record = dict([*_hf(), *_timm(), *_resizing()])
    record["made_with"] = np.array(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"timm {timm.__version__}"
    )
    np.savez_compressed(out, **record)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB, {record['made_with']}")


def _hf():
    for name, (kind, fields, sizes) in HF.items():
        config = transformers.AutoConfig.for_model(kind, **SHARED, **fields)
        model = transformers.AutoModel.from_config(config, attn_implementation="eager")
        _randomize(model)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)  # names on disk differ from those in memory
            saved = load_file(f"{folder}/model.safetensors")
            text = Path(folder, "config.json").read_text()
        yield f"{name}/config", np.array(json.dumps(json.loads(text)))
        for key, array in saved.items():
            yield f"{name}/tensor/{key}", array
        for height, width in sizes:
            image = torch.randn(2, 3, height, width)
            other = {} if sizes[0] == (height, width) or kind.startswith("dino") else {
                "interpolate_pos_encoding": True
            }  # fmt: skip
            outputs = model(image, output_hidden_states=True, **other)
            prefix = f"{name}/{height}x{width}"
            yield f"{prefix}/image", image.numpy()
            for i, hidden in enumerate(outputs.hidden_states):
                yield f"{prefix}/block{i}", hidden.numpy()
            yield f"{prefix}/out", outputs.last_hidden_state.numpy()


def _timm():
    for name, fields in TIMM.items():
        model = VisionTransformer(
            **{
                "img_size": 16,
                "patch_size": 4,
                "embed_dim": 24,
                "depth": 2,
                "num_heads": 3,
                "mlp_ratio": 2,
                "num_classes": 5,
                **fields,
            }  # fmt: skip
        ).eval()
        _randomize(model)
        for key, tensor in model.state_dict().items():
            yield f"{name}/tensor/{key}", tensor.numpy()
        image = torch.randn(2, 3, 16, 16)
        x = model._pos_embed(model.patch_embed(image))
        yield f"{name}/16x16/image", image.numpy()
        yield f"{name}/16x16/block0", x.numpy()
        for i, block in enumerate(model.blocks):
            x = block(x)
            yield f"{name}/16x16/block{i + 1}", x.numpy()
        yield f"{name}/16x16/out", model.forward_features(image).numpy()


def _resizing():
    table = torch.randn(1, 5, 4, 6)
    yield "resize/from", table[0].permute(1, 2, 0).reshape(24, 5).numpy()
    for method in ("bicubic", "bilinear"):
        for size in ((9, 11), (3, 4), (4, 13)):
            to = torch.nn.functional.interpolate(table, size, mode=method)
            to = to[0].permute(1, 2, 0).reshape(-1, 5)
            yield f"resize/{method}/{size[0]}x{size[1]}", to.numpy()


def _randomize(model: torch.nn.Module) -> None:
    """Sets every tensor to values far from 0 and 1, so that each one matters."""
    model.eval()
    for name, tensor in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensor.copy_(center + 0.3 * torch.randn_like(tensor))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/record_encoders.py OUT.npz")
    main(Path(sys.argv[1]))
