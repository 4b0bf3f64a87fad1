"""Times optimizer steps one by one against several in one call (`steps_per_call`).

    python benchmarks/speed/calls.py --steps=8 --reps=8

The step of configs/phantom.py:tables on one CPU device, images gathered in device
memory, in turns: `steps` single calls, then one call of as many, with the allocator as
`train` sets it. The last line is JSON; seconds are medians per step.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np

from benchmarks import conditions
from benchmarks.speed import program
from fof_jax.cli import allocator
from fof_jax.configs import phantom
from fof_jax.training import parallel, state
from fof_jax.training.build import build

IMAGES = 1600  # training rows of a fold


def works(steps: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Two functions that take so many steps: one by one, and in one call."""
    config = phantom.get_config("tables")
    config.devices = 1
    config.data.classes = ("II", "III", "IV")
    config.data.biomarkers = ("IDH", "1p19q", "CDKN2A")
    setup = build(config, program.info(config))
    devices = setup.devices
    example = program.batch(config)
    rng = np.random.default_rng(0)
    side = config.data.image_size
    pixels = rng.integers(0, 256, (IMAGES, side, side, 3), np.uint8)
    resident = parallel.on_every_device(pixels, devices)
    gather = parallel.gather_rows(devices)
    rows = config.batch_size
    batches = [
        dataclasses.replace(
            example,
            image=None,
            index=np.arange(t * rows, (t + 1) * rows, dtype=np.int32),
        )
        for t in range(steps)
    ]
    one = state.Schedule(np.float32(1e-4), np.float32(0.5))
    several = jax.tree.map(lambda a: np.stack([a] * steps), one)

    def start() -> state.TrainState:
        return state.initial_state(
            setup.method, setup.optimizer, jax.random.key(0), example
        )

    states = {"single": start(), "several": start()}

    def fill(placed: Any) -> Any:
        return dataclasses.replace(placed, image=gather(resident, placed.index))

    def single() -> Any:
        for batch in batches:
            placed = fill(parallel.place(batch, devices))
            states["single"], metrics = setup.train_step(
                states["single"], placed, one, {}
            )
        return metrics

    def together() -> Any:
        placed = fill(parallel.place_several(batches, devices))
        states["several"], metrics = setup.train_steps(
            states["several"], placed, several, {}
        )
        return metrics

    return single, together


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="in one call")
    parser.add_argument("--reps", type=int, default=8, help="turns")
    flags = parser.parse_args(argv)
    allocator.keep_freed_memory(one_arena=True)
    both = works(flags.steps)
    for work in both:
        jax.block_until_ready(work())
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(flags.reps):
        for work, kept in zip(both, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(work())
            kept.append((time.perf_counter() - wall, time.process_time() - cpu))
    result: dict[str, Any] = {**vars(flags), **conditions.conditions()}
    for name, kept in zip(("single", "together"), times, strict=True):
        for kind, values in zip(
            ("wall_s", "cpu_s"), zip(*kept, strict=True), strict=True
        ):
            result[f"{name}_{kind}"] = statistics.median(values) / flags.steps
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
