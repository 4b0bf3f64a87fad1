"""Times a student's step against the Baseline's, in turns, for each student.

    python benchmarks/speed/students.py --reps=20 --rows=distill.kl,distill.crd

The step is that of training, with augmentation, the teacher's forward pass and the
optimizer, at the sizes of configs/comparison.py (phantom: mu/8, 64 pixels, batch 16),
on one device. Weights and images are random. `cpu_ratio` compares CPU time, which other
processes disturb less than wall time. The last line is JSON.
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
from ml_collections import ConfigDict

from benchmarks import conditions
from fof_jax.cli import allocator
from fof_jax.configs import comparison
from fof_jax.methods import registry
from fof_jax.training import build, state
from fof_jax.types import Batch, DatasetInfo, Variables

ROWS = 1600  # training regions of a fold: rows of the memory banks
BASELINE = "vit"


def info_of(config: ConfigDict) -> DatasetInfo:
    """Names of the phantom's data."""
    return DatasetInfo(
        tuple(config.data.classes),
        tuple(config.data.biomarkers),
        (),
        tuple(config.data.omics),
        np.zeros((ROWS, len(config.data.biomarkers)), np.int64),
    )


def random_batch(config: ConfigDict) -> Batch:
    """A batch as the loader gives it, for one device: [1, B, …]."""
    rng = np.random.default_rng(0)
    size, side = config.batch_size, config.data.image_size
    rows = rng.choice(ROWS, size, replace=False).astype(np.int32)
    markers = len(config.data.biomarkers)
    batch = Batch(
        image=rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8),
        grade=rows % 3,
        biomarkers=np.zeros((size, markers), np.int32),
        known=np.ones((size, markers), bool),
        floats=np.zeros((size, 0), np.float32),
        index=rows,
        epoch=np.zeros(size, np.int32),
        valid=np.ones(size, bool),
        omics=rng.normal(size=(size, len(config.data.omics))).astype(np.float32),
    )
    return jax.tree.map(lambda a: a[None], batch)


def squares(config: ConfigDict) -> np.ndarray:
    """Square superpixels of a batch, about as many as CLAT has: [1, B, H, W]."""
    size, side = config.batch_size, config.data.image_size
    a_side = round(config.clat.superpixels**0.5)
    at = np.arange(side) * a_side // side
    return np.tile((at[:, None] * a_side + at).astype(np.uint8), (1, size, 1, 1))


def step_of(row: str) -> Callable[[], Any]:
    """A compiled step of a row, which keeps its state."""
    config = comparison.get_config(row)
    config.devices = 1
    batch = random_batch(config)
    if row == "distill.clat":
        batch = dataclasses.replace(batch, superpixels=squares(config))
    example = jax.tree.map(lambda a: a[0], batch)
    frozen: dict[str, Any] = {}
    if row in comparison.STUDENTS:
        columns = np.zeros(len(config.data.omics), np.float32)
        frozen["omics"] = {"mean": columns, "std": columns + 1, "median": columns}
        own = registry.stage_config(config, "teacher")
        teacher = build.build(own, info_of(config))
        first = state.initial_state(
            teacher.method, teacher.optimizer, jax.random.key(1), example, frozen
        )
        index = np.arange(ROWS, dtype=np.int32)
        frozen["labels"] = {"index": index, "grade": index % 3}
        frozen["teacher"] = Variables(params=first.params, state=first.state)
        config = registry.stage_config(config, "student")
    else:  # as the loader: no omics for a method that does not read them
        batch, example = (dataclasses.replace(b, omics=None) for b in (batch, example))
    setup = build.build(config, info_of(config))
    now = state.initial_state(
        setup.method, setup.optimizer, jax.random.key(0), example, frozen
    )
    frozen = jax.device_put(frozen)
    schedule = state.Schedule(np.float32(1e-4), np.float32(0.5))

    def step() -> Any:
        nonlocal now
        now, metrics = setup.train_step(now, batch, schedule, frozen)
        return metrics

    for _ in range(3):
        jax.block_until_ready(step())
    return step


def seconds(step: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(step())
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=20, help="pairs of steps")
    parser.add_argument("--rows", default=",".join(comparison.STUDENTS))
    flags = parser.parse_args(argv)
    allocator.keep_freed_memory(one_arena=True)  # as `train` on one CPU device
    result: dict[str, Any] = conditions.conditions() | {"reps": flags.reps}
    baseline = step_of(BASELINE)
    for row in flags.rows.split(","):
        student = step_of(row)
        pairs = [(seconds(baseline), seconds(student)) for _ in range(flags.reps)]
        walls, cpus = (
            [
                statistics.median(side[kind] for side in both)
                for both in zip(*pairs, strict=True)
            ]
            for kind in (0, 1)
        )
        result[row] = {
            "baseline_ms": round(1e3 * walls[0], 1),
            "student_ms": round(1e3 * walls[1], 1),
            "ratio": round(walls[1] / walls[0], 2),
            "cpu_ratio": round(cpus[1] / cpus[0], 2),
        }
        print(f"{row:22} {result[row]}", flush=True)
    conditions.report({}, result | {"load_after": conditions.conditions()["load"]})


if __name__ == "__main__":
    main(sys.argv[1:])
