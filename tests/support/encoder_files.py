"""Recorded encoders as the files that their programs write, and ours run on them."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fof_jax.models import vit
from fof_jax.models.pretrained import encoder_import, position_embedding, weight_files

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders.npz"
HF = ("vit", "ijepa", "dinov2", "swiglu", "registers")
TIMM = ("timm_plain", "timm_reg", "timm_no_embed_class", "timm_swiglu")


def recording():
    """All arrays of the recording by name."""
    with np.load(GOLDEN) as z:
        return {name: z[name] for name in z.files}


def tensors_of(z, case):
    start = f"{case}/tensor/"
    return {n.removeprefix(start): a for n, a in z.items() if n.startswith(start)}


def sizes_of(z, case):
    """Image sizes that a case was run at, the one of its training first."""
    names = [
        n.split("/")[1] for n in z if n.startswith(f"{case}/") and n[-5:] == "image"
    ]
    return [tuple(int(side) for side in name.split("x")) for name in names]


def write(folder, tensors, config=None, form="safetensors"):
    """A weights file as the program writes it, its name telling nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights"
    if form == "safetensors":
        path.write_bytes(safetensors.numpy.save(tensors))
    elif form == "npz":
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
    """timm's names to the published ones of AugReg's .npz, written out by hand."""
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
        at, to = f"blocks.{n}", f"Transformer/encoderblock_{n}"
        attention = f"{to}/MultiHeadDotProductAttention_1"
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{to}/{theirs}/scale"] = tensors[f"{at}.{ours}.weight"]
            out[f"{to}/{theirs}/bias"] = tensors[f"{at}.{ours}.bias"]
        qkv = tensors[f"{at}.attn.qkv.weight"].reshape(3, heads, d, width)
        bias = tensors[f"{at}.attn.qkv.bias"].reshape(3, heads, d)
        for i, one in enumerate(("query", "key", "value")):
            out[f"{attention}/{one}/kernel"] = qkv[i].transpose(2, 0, 1)
            out[f"{attention}/{one}/bias"] = bias[i]
        proj = tensors[f"{at}.attn.proj.weight"]
        out[f"{attention}/out/kernel"] = proj.reshape(width, heads, d).transpose(
            1, 2, 0
        )
        out[f"{attention}/out/bias"] = tensors[f"{at}.attn.proj.bias"]
        for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            out[f"{to}/MlpBlock_3/{theirs}/kernel"] = tensors[
                f"{at}.mlp.{ours}.weight"
            ].T
            out[f"{to}/MlpBlock_3/{theirs}/bias"] = tensors[f"{at}.mlp.{ours}.bias"]
    return out


def read(z, case, folder):
    """A recorded case, through a file."""
    if case in HF:
        config = json.loads(str(z[f"{case}/config"]))
        path = write(folder, tensors_of(z, case), config)
        return encoder_import.encoder(weight_files.read(path), "hf")
    path = write(folder, tensors_of(z, case))
    side = sizes_of(z, case)[0]
    return encoder_import.encoder(
        weight_files.read(path), "timm", image_size=side, heads=3
    )


def run(got, image, **options):
    """(residual streams before and after every block, finished tokens), NHWC images."""
    size = image.shape[1:3]
    model = vit.ViT(
        size=got.size,
        patch=got.patch,
        image_size=size,
        layer_norm_eps=got.layer_norm_eps,
        class_token=got.class_token,
        implementation="naive",
        **options,
    )
    table = position_embedding.resize(
        got.params["position"], grid=got.grid, to=model.grid, method="bicubic"
    )
    params = jax.tree.map(jnp.asarray, {**got.params, "position": table})

    def streams(m, x):
        x = m.add_position(m.embed(x))
        out = [x]
        for layer in range(got.size.depth):
            x = m.run(x, layer, layer + 1)
            out.append(x)
        return out, m.finish(x)

    return model.apply({"params": params}, jnp.asarray(image), method=streams)
