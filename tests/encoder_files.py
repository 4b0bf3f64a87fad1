"""Recorded encoders as the files that their programs write, and ours run on them."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from fof_jax import vit
from fof_jax.pretrained import files, position, source

GOLDEN = Path(__file__).parent / "golden" / "encoders.npz"
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


def read(z, case, folder):
    """A recorded case, through a file."""
    if case in HF:
        config = json.loads(str(z[f"{case}/config"]))
        path = write(folder, tensors_of(z, case), config)
        return source.encoder(files.read(path), "hf")
    path = write(folder, tensors_of(z, case))
    side = sizes_of(z, case)[0]
    return source.encoder(files.read(path), "timm", image_size=side, heads=3)


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
    table = position.resize(
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
