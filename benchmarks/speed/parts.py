"""Profiles one training step by part of the method, with JAX's profiler.

    python benchmarks/speed/parts.py --image=1024 --batch=1 --steps=2

Every instruction of the compiled program is assigned to a part of the method by its
name scope. `share` is the fraction of the instruction time of all threads; instructions
can run in parallel, so that the sum of `seconds` can exceed the time of the step. The
last line is JSON.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax

from benchmarks import conditions
from benchmarks.speed import program

_NAMED = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)op_name="([^"]*)"')
# The first match is the part; scopes as in the code, module names as in vit.py.
PARTS = (
    ("augmentation", re.compile(r"[/(]augment[/)]")),
    ("optimizer", re.compile(r"[/(]optimizer[/)]")),
    ("CAM, masks, views", re.compile(r"[/(](cam|views)[/)]")),
    ("attention", re.compile(r"[/(]attention[/)]")),
    ("dense layers", re.compile(r"/(qkv|out|mlp_in|mlp_out)/|/embedding/")),
    ("LayerNorm", re.compile(r"/(norm_attention|norm_mlp|norm)/")),
    ("rest of a block: GELU, residuals, transposes", re.compile(r"Block")),
)
OTHER = "heads, losses, loops, copies"
_PRODUCT = re.compile(r"dot_general|einsum|/transpose$")


def part_of(scope: str) -> str:
    """Part of the method of an instruction's scope."""
    for name, pattern in PARTS:
        if pattern.search(scope):
            return name
    return OTHER


def scopes(text: str) -> dict[str, str]:
    """Scope by instruction of an optimized HLO module, without loops and calls.

    The instructions inside loops and calls are counted individually.
    """
    scope_of = {}
    for line in text.splitlines():
        if (match := _NAMED.match(line)) and not re.search(
            r" (while|call|conditional|get-tuple-element)\(", match[2]
        ):
            scope_of[match[1]] = match[3]
    return scope_of


def spent(folder: str, scope_of: dict[str, str]) -> Counter[str]:
    """Seconds by instruction of the single trace below a folder."""
    (trace,) = Path(folder).rglob("*.xplane.pb")
    seconds: Counter[str] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in scope_of:
                    seconds[event.name] += event.duration_ns / 1e9
    return seconds


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=1024, help="side, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--steps", type=int, default=2, help="under the profiler")
    parser.add_argument("--encoder", default="Ti/16")
    parser.add_argument("--remat", default="output")
    parser.add_argument("--top", type=int, default=12, help="instructions listed")
    flags = parser.parse_args(argv)
    before = conditions.conditions()
    step = program.compile_step(
        program.config(
            data_image_size=flags.image,
            batch_size=flags.batch,
            encoder=flags.encoder,
            remat=flags.remat,
        )
    )
    scope_of = scopes(step.compiled.as_text())
    jax.block_until_ready(step())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with jax.profiler.trace(folder):
            for _ in range(flags.steps):
                jax.block_until_ready(step())
        wall = (time.perf_counter() - start) / flags.steps
        seconds = spent(folder, scope_of)
    total = sum(seconds.values())
    parts: Counter[str] = Counter()
    for name, value in seconds.items():
        parts[part_of(scope_of[name])] += value
    products = sum(v for k, v in seconds.items() if _PRODUCT.search(scope_of[k]))
    for name, value in seconds.most_common(flags.top):
        print(f"{value / flags.steps:8.3f} s  {name:32} {scope_of[name][-90:]}")
    result: dict[str, Any] = vars(flags) | {"wall_s": round(wall, 2)}
    result["products_share"] = round(products / total, 3)
    result["share"] = {k: round(v / total, 4) for k, v in parts.most_common()}
    result["seconds"] = {k: round(v / flags.steps, 3) for k, v in parts.most_common()}
    result |= before | {"load_after": conditions.conditions()["load"]}
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
