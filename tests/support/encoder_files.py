"""Recorded encoders as weights files, and comparison of residual streams."""

import functools
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fof_jax.models import vit
from fof_jax.models.pretrained import encoder_import, position_embedding, weight_files

TOLERANCE = 1e-5  # of the maximum of an array, in float32
GOLDEN = Path(__file__).parents[1] / "golden" / "encoders.npz"
HF = ("vit", "ijepa", "dinov2", "swiglu", "registers")
TIMM = ("timm_plain", "timm_reg", "timm_no_embed_class", "timm_swiglu")


def recording():
    """All arrays of the recording, by name."""
    with np.load(GOLDEN) as z:
        return {name: z[name] for name in z.files}


def tensors_of(z, case):
    start = f"{case}/tensor/"
    return {n.removeprefix(start): a for n, a in z.items() if n.startswith(start)}


def sizes_of(z, case):
    """Image sizes of a recorded case, the training size first."""
    names = [
        n.split("/")[1] for n in z if n.startswith(f"{case}/") and n[-5:] == "image"
    ]
    return [tuple(int(side) for side in name.split("x")) for name in names]


def write(folder, tensors, config=None, format_="safetensors"):
    """Writes a weights file, whose name has no suffix, and its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights"
    if format_ == "safetensors":
        path.write_bytes(safetensors.numpy.save(tensors))
    elif format_ == "npz":
        buffer = io.BytesIO()
        np.savez(buffer, **tensors)
        path.write_bytes(buffer.getvalue())
    else:
        import torch

        torch.save({n: torch.tensor(a) for n, a in tensors.items()}, path)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return path


def as_augreg(tensors, heads):
    """Converts timm's names to those of AugReg's published .npz files."""
    width = tensors["cls_token"].shape[-1]
    d = width // heads
    out = {
        "cls": tensors["cls_token"],
        "embedding/kernel": tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": tensors["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": tensors["pos_embed"],
        "Transformer/encoder_norm/scale": tensors["norm.weight"],
        "Transformer/encoder_norm/bias": tensors["norm.bias"],
        "head/kernel": tensors["head.weight"].T,
        "head/bias": tensors["head.bias"],
    }
    depth = sum(name.endswith("norm1.bias") for name in tensors)
    for n in range(depth):
        source, to = f"blocks.{n}", f"Transformer/encoderblock_{n}"
        attention = f"{to}/MultiHeadDotProductAttention_1"
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{to}/{layer}/scale"] = tensors[f"{source}.{norm}.weight"]
            out[f"{to}/{layer}/bias"] = tensors[f"{source}.{norm}.bias"]
        qkv = tensors[f"{source}.attn.qkv.weight"].reshape(3, heads, d, width)
        bias = tensors[f"{source}.attn.qkv.bias"].reshape(3, heads, d)
        for i, projection in enumerate(("query", "key", "value")):
            out[f"{attention}/{projection}/kernel"] = qkv[i].transpose(2, 0, 1)
            out[f"{attention}/{projection}/bias"] = bias[i]
        proj = tensors[f"{source}.attn.proj.weight"]
        out[f"{attention}/out/kernel"] = proj.reshape(width, heads, d).transpose(
            1, 2, 0
        )
        out[f"{attention}/out/bias"] = tensors[f"{source}.attn.proj.bias"]
        for fc, layer in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            out[f"{to}/MlpBlock_3/{layer}/kernel"] = tensors[
                f"{source}.mlp.{fc}.weight"
            ].T
            out[f"{to}/MlpBlock_3/{layer}/bias"] = tensors[f"{source}.mlp.{fc}.bias"]
    return out


def read(z, case, folder):
    """Imports a recorded case through a weights file."""
    if case in HF:
        config = json.loads(str(z[f"{case}/config"]))
        path = write(folder, tensors_of(z, case), config)
        return encoder_import.import_encoder(weight_files.read(path), "hf")
    path = write(folder, tensors_of(z, case))
    side = sizes_of(z, case)[0]
    return encoder_import.import_encoder(
        weight_files.read(path), "timm", image_size=side, heads=3
    )


def assert_close(got, expected, name, *, stride=1, scale=None):
    """Compares every `stride`-th value, relative to the maximum (`scale`)."""
    scale = np.abs(expected).max() if scale is None else scale
    values = np.asarray(got)
    values = values if stride == 1 else values.ravel()[::stride]
    error = np.abs(values - expected).max() / scale
    assert error < TOLERANCE, f"{name}: {error:.1e} of the maximum"


def run(imported, image, **options):
    """Residual streams before block 0 and after every block, and the normalized tokens.

    Args:
      imported: an imported encoder.
      image: images [B, H, W, C], of any size.
      options: further fields of `vit.ViT`.
    """
    model = vit.ViT(
        size=imported.size,
        patch=imported.patch,
        image_size=image.shape[1:3],
        layer_norm_eps=imported.layer_norm_eps,
        class_token=imported.class_token,
        implementation="naive",
        **options,
    )
    position = position_embedding.resize(
        imported.params["position"], grid=imported.grid, to=model.grid, method="bicubic"
    )
    params = jax.tree.map(jnp.asarray, {**imported.params, "position": position})

    def streams(m, x):
        x = m.add_position(m.embed(x))
        out = [x]
        for layer in range(imported.size.depth):
            x = m.run(x, layer, layer + 1)
            out.append(x)
        return out, m.final_norm(x)

    apply = jax.jit(functools.partial(model.apply, method=streams))
    return apply({"params": params}, jnp.asarray(image))
