"""Times convolutions of small maps against XLA's own, forward and with gradients.

    python benchmarks/speed/convolution.py --batch=16 --reps=5

Maps are those of ResNet-18's last two stages on images of 64 pixels and above. Both run
in alternation, under the same load; results are medians. The last line is JSON.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import conditions
from benchmarks.speed.race import Pair, race
from fof_jax.models.convolution import convolve

# Side of the map, channels before and after, stride; 3 x 3 kernels.
LAYERS = ((8, 256, 512, 2), (4, 256, 512, 2), (4, 512, 512, 1), (2, 512, 512, 1))
Apply = Callable[[jax.Array, jax.Array, int], jax.Array]


def xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution as one operation of XLA."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def pair(apply: Apply, x: jax.Array, kernel: jax.Array, stride: int) -> Pair:
    """Forward, and both gradients of the sum."""
    forward = jax.jit(lambda x, kernel: apply(x, kernel, stride))
    both = jax.jit(jax.grad(lambda *a: apply(*a, stride).sum(), argnums=(0, 1)))
    return (
        lambda: jax.block_until_ready(forward(x, kernel)),
        lambda: jax.block_until_ready(both(x, kernel)),
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--reps", type=int, default=5)
    flags = parser.parse_args(argv)
    before = conditions.conditions()
    rng = np.random.default_rng(0)
    layers: dict[str, Any] = {}
    for side, channels, features, stride in LAYERS:
        shapes = (flags.batch, side, side, channels), (3, 3, channels, features)
        x, kernel = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes)
        times = race(
            {
                name: pair(apply, x, kernel, stride)
                for name, apply in (("ours", convolve), ("xla", xla))
            },
            flags.reps,
        )
        layer = f"{side} x {side} x {channels} -> {features}, stride {stride}"
        layers[layer] = times
        for name, figures in times.items():
            print(f"{layer:30} {name:5} {figures}", flush=True)
    shown = vars(flags) | before | {"load_after": conditions.conditions()["load"]}
    conditions.report(shown, shown | {"layers": layers})


if __name__ == "__main__":
    main(sys.argv[1:])
