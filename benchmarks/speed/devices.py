"""Compares loss and gradient of one global batch on 1, 2, 4 and 8 devices.

    python benchmarks/speed/devices.py --steps=20

Simulated CPU devices and the training step of `train.py`; all runs start from the same
parameters. Differences from one device, relative to the largest value of the step. The
last line is JSON.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
import optax

from benchmarks import conditions
from benchmarks.speed import program
from fof_jax.training import parallel
from fof_jax.training import state as training_state
from fof_jax.training.build import build


class GradientState(NamedTuple):
    """State of the wrapped optimizer, and the last gradient."""

    inner: Any
    gradient: Any


def keep_gradient(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps an optimizer to keep the last gradient in its state."""

    def init(params):
        return GradientState(
            inner.init(params), jax.tree.map(jax.numpy.zeros_like, params)
        )

    def update(gradient, state, params):
        direction, after = inner.update(gradient, state.inner, params)
        return direction, GradientState(after, gradient)

    return optax.GradientTransformation(init, update)


def run(devices: int, steps: int, **fields: Any) -> dict[str, list[np.ndarray]]:
    """Loss and gradient of every step, and the parameters after the last."""
    config = program.config(devices=devices, **fields)
    setup = build(config, program.info(config))
    adamw = keep_gradient(setup.optimizer)
    # As in `build`, but with the wrapped optimizer.
    step = parallel.train_step(
        setup.method, adamw, setup.augment, setup.step_key, setup.devices
    )
    first = program.batch(config)
    state = training_state.initial_state(setup.method, adamw, jax.random.key(0), first)
    schedule = training_state.Schedule(learning_rate=np.float32(1e-3))
    out: dict[str, list[np.ndarray]] = {"loss": [], "gradient": []}
    for t in range(steps):
        batch = parallel.to_devices(program.batch(config, seed=t), devices)
        state, metrics = step(state, batch, schedule, {})
        out["loss"].append(np.asarray(metrics["total"]))
        out["gradient"].append(flat(state.opt_state.gradient))
    return out | {"parameters": [flat(state.params)]}


def flat(tree: Any) -> np.ndarray:
    """Concatenates all leaves to one vector."""
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


def max_difference(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference of any step, relative to that step's largest value."""
    pairs = zip(got, expected, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--encoder", default="mu/8")
    parser.add_argument("--image", type=int, default=64)
    flags = parser.parse_args(argv)
    fields = {"encoder": flags.encoder, "data_image_size": flags.image}
    fields |= {"batch_size": 8, "attention": "naive", "remat": "none"}
    runs = {n: run(n, flags.steps, **fields) for n in flags.devices}
    result: dict[str, Any] = conditions.conditions() | vars(flags)
    print(f"{'devices':>8} {'loss':>10} {'gradient':>10} {'parameters':>10}")
    for n, one in runs.items():
        figures = {
            name: max_difference(one[name], runs[flags.devices[0]][name])
            for name in one
        }
        print(f"{n:8} " + " ".join(f"{value:10.1e}" for value in figures.values()))
        result[f"devices_{n}"] = figures
    conditions.report({}, result)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1:])
