"""One global batch on 1, 2, 4 and 8 devices: how far loss and gradient come apart.

    python benchmarks/speed/devices.py --steps=20

Fake CPU devices; the training step is the one that `train.py` calls, every run goes its
own way from the same start. Differences from one device, relative to the largest value
of the step. The last line is JSON.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks import conditions  # noqa: E402
from benchmarks.speed import program  # noqa: E402
from fof_jax.training import parallel  # noqa: E402
from fof_jax.training import state as training_state
from fof_jax.training.build import build_program  # noqa: E402


class Kept(NamedTuple):
    """The optimizer's own state, and the gradient that it was given last."""

    inner: Any
    gradient: Any


def keeping(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, which remembers the gradient."""

    def init(params):
        return Kept(inner.init(params), jax.tree.map(jax.numpy.zeros_like, params))

    def update(gradient, state, params):
        direction, after = inner.update(gradient, state.inner, params)
        return direction, Kept(after, gradient)

    return optax.GradientTransformation(init, update)


def run(devices: int, steps: int, **fields: Any) -> dict[str, list[np.ndarray]]:
    """Loss and gradient of every step, and the parameters after the last."""
    config = program.config(devices=devices, **fields)
    made = build_program(config, program.bare(config))
    adamw = keeping(made.adamw)
    # As build_program does it; only the optimizer remembers.
    step = parallel.train_step(
        made.method, adamw, made.draw, made.step_key, made.devices
    )
    first = program.batch(config)
    state = training_state.initial_state(made.method, adamw, jax.random.key(0), first)
    out: dict[str, list[np.ndarray]] = {"loss": [], "gradient": []}
    for t in range(steps):
        batch = parallel.to_devices(program.batch(config, seed=t), devices)
        state, metrics = step(state, batch, np.float32(1e-3))
        out["loss"].append(np.asarray(metrics["total"]))
        out["gradient"].append(flat(state.opt_state.gradient))
    return out | {"parameters": [flat(state.params)]}


def flat(tree: Any) -> np.ndarray:
    """All leaves in one vector."""
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])


def apart(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """Largest difference of any step, relative to that step's largest value."""
    pairs = zip(got, want, strict=True)
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
        figures = {name: apart(one[name], runs[flags.devices[0]][name]) for name in one}
        print(f"{n:8} " + " ".join(f"{value:10.1e}" for value in figures.values()))
        result[f"devices_{n}"] = figures
    conditions.report({}, result)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1:])
