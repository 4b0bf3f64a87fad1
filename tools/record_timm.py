"""Records residual streams of timm's models at published sizes, for the tests.

    pip install torch timm jaxtyping
    PYTHONPATH=. python tools/record_timm.py tests/golden/timm.npz

Weights and images are a hash of their names, here and in the tests, because the stream
of NumPy's generator changes between its versions. The recording has names, shapes and
checksum only, timm's config.json, and a sample of the residual stream after every
block. timm installs torchvision, which may replace torch: use a separate environment.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fof_jax.parity.rows import encoder_rule

# name: (timm's model name, or None for a VisionTransformer, arguments)
CASES = {
    "Ti/16": ("vit_tiny_patch16_224", {}),
    "S/16": ("vit_small_patch16_224", {}),
    "DINOv2-S/14": ("vit_small_patch14_dinov2", {"img_size": 112}),
    "DINOv2-S+reg/14": ("vit_small_patch14_reg4_dinov2", {"img_size": 98}),
    "odd": (
        None,
        {"img_size": (35, 50), "patch_size": 5, "embed_dim": 60, "depth": 3,
         "num_heads": 5, "mlp_ratio": 77 / 60},
    ),
}  # fmt: skip
_SEED = 9  # of `encoder_rule.uniform`
STRIDE = 97  # prime, so that the samples cover all channels and tokens


def generate(
    shapes: Mapping[str, Sequence[int]], image_size: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weights by timm's names and an image [1, 3, H, W], uniform with variance 1."""

    def spread(name: str, shape: Sequence[int]) -> np.ndarray:
        return (3**0.5 * encoder_rule.uniform(name, tuple(shape), _SEED)).astype("f4")

    image = spread("image", (1, 3, *image_size))
    weights = {}
    for name, shape in shapes.items():
        center = 1 if "norm" in name and name.endswith("weight") else 0
        width = shape[-1] if len(shape) > 1 else 25
        weights[name] = center + spread(name, shape) / np.float32(width**0.5)
    return weights, image


def checksum(weights: Mapping[str, np.ndarray], image: np.ndarray) -> str:
    """SHA-256 of weights and image."""
    digest = hashlib.sha256(image.tobytes())
    for array in weights.values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def main(out: Path) -> None:
    """Writes the recording."""
    import timm
    import torch

    record = {
        "made_with": np.array(f"torch {torch.__version__}, timm {timm.__version__}")
    }
    with torch.no_grad():
        for case in CASES:
            record |= {f"{case}/{key}": a for key, a in _run(case).items()}
    np.savez_compressed(out, **record)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB, {record['made_with']}")


def _run(case: str) -> dict[str, np.ndarray]:
    import timm
    import torch
    from timm.models.vision_transformer import VisionTransformer

    name, arguments = CASES[case]
    model = (
        timm.create_model(name, **arguments) if name else VisionTransformer(**arguments)
    ).eval()
    shapes = {n: list(t.shape) for n, t in model.state_dict().items()}
    weights, image = generate(shapes, model.patch_embed.img_size)
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()})
    x = model._pos_embed(model.patch_embed(torch.from_numpy(image)))
    streams = [x]
    for block in model.blocks:
        streams.append(x := block(x))
    streams.append(model.forward_features(torch.from_numpy(image)))
    arrays = [stream.numpy() for stream in streams]
    return {
        "shapes": np.array(json.dumps(shapes)),
        "image_size": np.array(model.patch_embed.img_size),
        "checksum": np.array(checksum(weights, image)),
        "config": np.array(_config(model) if name else ""),
        "shape": np.array(arrays[0].shape),
        "streams": np.stack([a.ravel()[::STRIDE] for a in arrays]),
        "max": np.array([np.abs(a).max() for a in arrays]),
    }


def _config(model: object) -> str:
    import timm.models

    with tempfile.TemporaryDirectory() as folder:
        timm.models.save_for_hf(model, folder)
        return Path(folder, "config.json").read_text()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/record_timm.py OUT.npz")
    main(Path(sys.argv[1]))
