"""Times the encoder's blocks against PyTorch's layers of the same size.

    python benchmarks/speed/encoder.py --image=1024 --encoder=Ti/16 --reps=3

Both run pre-LN blocks with exact GELU and fused attention on random tokens, forward,
and forward with the gradient of every parameter; they alternate, results are medians.
JAX uses the remat policy `--remat`, PyTorch saves all activations. The last line is
JSON.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import conditions
from benchmarks.speed.race import Pair, race, ratios
from fof_jax.models import vit


def fof_jax_pair(model: vit.ViT, tokens: np.ndarray, weight: np.ndarray) -> Pair:
    image = jnp.zeros((1, *model.image_size, 3))
    params = jax.jit(model.init)(jax.random.key(0), image)
    x, scale = jnp.asarray(tokens), jnp.asarray(weight)

    def apply(params: Any) -> jax.Array:
        return model.apply(params, x, method="run")

    forward = jax.jit(apply)
    both = jax.jit(jax.grad(lambda params: (apply(params) * scale).sum()))
    return (
        lambda: jax.block_until_ready(forward(params)),
        lambda: jax.block_until_ready(both(params)),
    )


def pytorch(size: vit.Size, tokens: np.ndarray, weight: np.ndarray) -> Pair:
    import torch

    torch.set_num_threads(conditions.conditions()["cores"])
    layers = [
        torch.nn.TransformerEncoderLayer(
            size.width,
            size.heads,
            size.mlp,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        for _ in range(size.depth)
    ]
    model = torch.nn.Sequential(*layers)  # training mode, so that attention is fused
    x, scale = torch.tensor(tokens), torch.tensor(weight)

    def forward() -> Any:
        with torch.no_grad():
            return model(x)

    def both() -> Any:
        return torch.autograd.grad((model(x) * scale).sum(), list(model.parameters()))

    return forward, both


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=1024, help="side, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--encoder", default="Ti/16")
    parser.add_argument("--remat", default="output")
    parser.add_argument("--reps", type=int, default=3)
    flags = parser.parse_args(argv)
    size, patch = vit.parse_variant(flags.encoder)
    model = vit.ViT(
        size=size, patch=patch, image_size=(flags.image,) * 2, remat=flags.remat
    )
    h, w = model.grid
    rng = np.random.default_rng(0)
    shape = (flags.batch, h * w, size.width)
    tokens, weight = (rng.standard_normal(shape, np.float32) for _ in range(2))
    before = conditions.conditions()
    runs = {"fof_jax": fof_jax_pair(model, tokens, weight)}
    try:
        runs["torch"] = pytorch(size, tokens, weight)
    except ImportError:
        print("PyTorch is not installed: no ratio")
    results = race(runs, flags.reps)
    for name, figures in results.items():
        print(f"{name:10} {figures}")
    result = vars(flags) | results["fof_jax"] | ratios(results, "fof_jax")
    result |= before | {"load_after": conditions.conditions()["load"]}
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
