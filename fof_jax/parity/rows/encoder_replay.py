"""Replays one encoder recording: evaluation, training mode, and three steps."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.models.pretrained import torch_layers
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import (
    encoder_cases,
    encoder_compare,
    encoder_passes,
    encoder_rule,
)
from fof_jax.parity.rows import encoder_tolerances as tolerances
from fof_jax.parity.rows.encoder_cases import Case, Recording
from fof_jax.training import state as training_state
from fof_jax.types import Batch


def replay(z: Recording) -> list[Row]:
    """Compares every recorded quantity with ours.

    Args:
      z: a recording of methods/encoders.md; sizes and constants are read from it.

    Returns:
      one row per quantity.

    Source: methods/encoders.md.
    """
    case = encoder_cases.build(z)
    tensors, rows = _initial(z)
    batches = [_batch(z, step) for step in range(encoder_passes.STEPS)]
    rows += _images(z, batches)
    start = _state(case, tensors)
    rows.append(_count(z, case, start))
    rows += encoder_compare.of_pass(
        z, case, "eval", encoder_passes.evaluate(case, start, batches[0])
    )
    return rows + _trained(z, case, start, batches)


def evaluated(z: Recording) -> list[Row]:
    """The rows of `replay` in evaluation mode with the initial parameters."""
    case = encoder_cases.build(z)
    start = _state(case, _initial(z)[0])
    passed = encoder_passes.evaluate(case, start, _batch(z, 0))
    return encoder_compare.of_pass(z, case, "eval", passed)


def trained(z: Recording) -> list[Row]:
    """The rows of `replay` in training mode and after optimizer steps."""
    case = encoder_cases.build(z)
    start = _state(case, _initial(z)[0])
    return _trained(
        z, case, start, [_batch(z, step) for step in range(encoder_passes.STEPS)]
    )


def _trained(
    z: Recording, case: Case, start: training_state.TrainState, batches: list[Batch]
) -> list[Row]:
    rows: list[Row] = []
    state, losses = start, []
    step = encoder_passes.compile_step(case)
    for s in range(encoder_passes.STEPS):
        masks = jax.tree.map(jnp.asarray, case.masks(z, s))
        after, passed = step(state, batches[s], masks, case.rate(s))
        losses.append(passed.loss)
        if s == 0:
            rows += encoder_compare.of_pass(z, case, "train", passed)
            rows += encoder_compare.statistics(z, case, after, "train", "statistics")
            rows.append(encoder_compare.firm(z, case, start, after, passed.gradients))
        state = after
    rows += encoder_compare.steps(z, case, losses)
    return rows + encoder_compare.after(z, case, state, batches[0])


def _initial(z: Recording) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Parameters and buffers by the rule, checked by the recorded sums."""
    seed, tensors, sums = int(z["cfg/seed"]), {}, []
    for name, text in zip(
        z["init_names"].tolist(), z["init_shapes"].tolist(), strict=True
    ):
        shape = tuple(map(int, text.split("x")))
        tensors[name] = encoder_rule.tensor(name, shape, seed)
        sums.append(_sum_and_norm(tensors[name]))
    scale = z["init_stats"][:, 1:]
    rule = comparison.row(
        "rule parameters",
        np.array(sums) / scale,
        z["init_stats"] / scale,
        tolerances.TOLERANCES["rule"],
        scale=1.0,
    )
    return tensors, [rule]


def _sum_and_norm(value: Any) -> tuple[float, float]:
    wide = np.asarray(value, np.float64)
    return float(wide.sum()), float(np.sqrt((wide * wide).sum()))


def _batch(z: Recording, step: int) -> Batch:
    size = int(z["cfg/batch"])
    shape = (size, 3, *z["cfg/image"].tolist())
    pixels = encoder_rule.image(step, shape, int(z["cfg/seed"]))
    return Batch(
        image=jnp.asarray(pixels.transpose(0, 2, 3, 1)),
        grade=jnp.asarray(z[f"batch{step}/grade"], jnp.int32),
        index=jnp.arange(size, dtype=jnp.int32),
    )


def _images(z: Recording, batches: list[Batch]) -> list[Row]:
    rows = []
    for step, batch in enumerate(batches):
        pixels = np.moveaxis(np.asarray(batch.image), -1, 1)
        theirs = z[f"batch{step}/image_stats"]
        bound = tolerances.TOLERANCES["rule"]
        got, scale = np.array(_sum_and_norm(pixels)), float(theirs[1])
        rows.append(comparison.row("", got, theirs, bound, scale=scale))
        stored = tolerances.stored(z, f"batch{step}/").get("image")
        if stored is not None:
            rows.append(comparison.row("", *tolerances.pair(pixels, stored), 0.0))
    return [comparison.worst(rows, "rule images")]


def _state(case: Case, tensors: Mapping[str, np.ndarray]) -> training_state.TrainState:
    collections = torch_layers.to_flax(tensors, case.layers)
    collections = jax.tree.map(jnp.asarray, collections)
    params, statistics = collections["params"], collections["batch_stats"]
    return training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        state={"batch_stats": statistics} if statistics else {},
        opt_state=case.optimizer.init(params),
    )


def _count(z: Recording, case: Case, state: training_state.TrainState) -> Row:
    """Number of trained parameters that our network initializes."""
    image = jnp.zeros((1, *z["cfg/image"].tolist(), 3))
    fresh = jax.eval_shape(case.method.network.init, encoder_passes.KEY, image)[
        "params"
    ]
    if _shapes(fresh) != _shapes(state.params):
        raise ValueError(
            "parity: the recording's parameters are not those of the network that its "
            "cfg/ describes."
        )
    untrained = case.method.untrained
    size = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(fresh)
        if not any(tuple(k.key for k in path)[: len(u)] == u for u in untrained)
    )
    return comparison.row(
        "trained parameters", size, z["trainable_parameters"], 0.0, scale=1.0
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
