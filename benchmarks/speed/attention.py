"""Times attention, forward and backward, against PyTorch and the naive form.

    python benchmarks/speed/attention.py --tokens=4096 --heads=3 --width=64 --reps=5

Implementations alternate, so that they run under the same load; results are medians.
PyTorch is skipped if it is not installed. The last line is JSON.
"""

import argparse
import contextlib
import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import conditions
from benchmarks.speed.race import Pair, race, ratios
from fof_jax.models import attention
from fof_jax.training import compilation


def fof_jax_pair(name: str, arrays: list[np.ndarray]) -> Pair:
    q, k, v, weight = (jnp.asarray(a) for a in arrays)
    apply = functools.partial(attention.attention, implementation=name)
    forward = jax.jit(apply)
    both = jax.jit(jax.grad(lambda *a: (apply(*a) * weight).sum(), argnums=(0, 1, 2)))
    return (
        lambda: jax.block_until_ready(forward(q, k, v)),
        lambda: jax.block_until_ready(both(q, k, v)),
    )


def pytorch(arrays: list[np.ndarray]) -> Pair:
    import torch

    torch.set_num_threads(conditions.conditions()["cores"])
    q, k, v = (torch.tensor(a, requires_grad=True) for a in arrays[:3])
    weight = torch.tensor(arrays[3])
    apply = torch.nn.functional.scaled_dot_product_attention

    def forward() -> Any:
        with torch.no_grad():
            return apply(q, k, v)

    def both() -> Any:
        return torch.autograd.grad((apply(q, k, v) * weight).sum(), (q, k, v))

    return forward, both


def temporary(name: str, heads: int, tokens: int, width: int) -> int:
    """Temporary memory of forward and backward in bytes, reported by XLA."""
    apply = functools.partial(attention.attention, implementation=name)
    shape = jax.ShapeDtypeStruct((1, heads, tokens, width), jnp.float32)
    both = jax.jit(jax.grad(lambda *a: apply(*a).sum(), argnums=(0, 1, 2)))
    memory = both.lower(shape, shape, shape).compile().memory_analysis()
    return memory.temp_size_in_bytes


def growth_mb(tokens: int, heads: int, width: int) -> float:
    """Growth of peak memory in forward and backward, measured in a new process."""
    flags = [f"--tokens={tokens}", f"--heads={heads}", f"--width={width}"]
    done = subprocess.run(
        [sys.executable, __file__, *flags, "--only-growth"],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def measure_growth(arrays: list[np.ndarray]) -> float:
    """Megabytes by which forward and backward raise the peak memory of this process.

    The peak is reset after compilation (Linux; where that is not possible, the result
    is a lower bound).
    """
    q, k, v, weight = (jnp.asarray(a) for a in arrays)

    def both(q, k, v):
        return (attention.chunked(q, k, v) * weight).sum()

    compiled = jax.jit(jax.grad(both, argnums=(0, 1, 2))).lower(q, k, v).compile()
    compilation.give_back_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = conditions.peak_gib()
    jax.block_until_ready(compiled(q, k, v))
    return (conditions.peak_gib() - before) * 2**30 / 1e6


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument(
        "--naive", action="store_true", help="also the naive form: 2 GB at 4096"
    )
    parser.add_argument("--only-growth", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    shape = (1, flags.heads, flags.tokens, flags.width)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(4)]
    if flags.only_growth:
        print(measure_growth(arrays))
        return
    before = conditions.conditions()
    runs: dict[str, Pair] = {"chunked": fof_jax_pair("chunked", arrays)}
    if flags.naive:
        runs["naive"] = fof_jax_pair("naive", arrays)
    try:
        runs["torch"] = pytorch(arrays)
    except ImportError:
        print("PyTorch is not installed: no ratio")
    results = race(runs, flags.reps)
    result: dict[str, Any] = {
        "tokens": flags.tokens,
        "heads": flags.heads,
        "width": flags.width,
        **results["chunked"],
        "growth_mb": round(growth_mb(flags.tokens, flags.heads, flags.width), 1),
    }
    result |= ratios(results, "chunked")
    sizes = [flags.tokens, 4 * flags.tokens]
    bytes_ = [temporary("chunked", flags.heads, n, flags.width) for n in sizes]
    result["temp_bytes"] = bytes_[0]
    result["memory_exponent"] = round(math.log(bytes_[1] / bytes_[0], 4), 3)
    result |= before | {"load_after": conditions.conditions()["load"]}
    for name, figures in results.items():
        print(f"{name:10} {figures}")
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
