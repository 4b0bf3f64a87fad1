"""Cost of a configuration: parameters, FLOPs, time and memory."""

import dataclasses
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from fof_jax.data import store
from fof_jax.methods.base import Method, parameter_count, standardize
from fof_jax.training import first_step, flops, parallel
from fof_jax.training.first_step import FirstStep
from fof_jax.training.state import Schedule
from fof_jax.types import Batch, Variables

REPETITIONS = 10


def measure(
    config: ConfigDict, data: store.Store, *, repetitions: int = REPETITIONS
) -> dict[str, Any]:
    """Measures one training step and the prediction of one batch, on one device.

    Nothing is trained; the teacher of a student has random weights. FLOPs are those of
    matrix products and convolutions in the compiled programs, see `flops`.

    Args:
      config: of the row; `fold` selects the fold, the first one by default.
      data: the store to train on.
      repetitions: timed calls of each program, after two that are not.

    Returns:
      JSON values: `parameters` (trained), `test_parameters` (those of them that a
      prediction depends on), `step_gflop`, `test_gflop_per_image`, `step_s` and
      `test_images_per_s` (medians), `step_bytes` (arguments, results and temporaries
      of a step), `peak_bytes` (resident memory of this process on a CPU, of the
      allocator on an accelerator), `batch_size`, `needs_at_test`, `device`, `load` (of
      the machine); None where there is no figure.
    """
    config = ConfigDict(config.to_dict())
    config.devices = 1
    *_, program = first_step.of_stages(config, data)  # the last is tested
    result = _of_test(program, repetitions) | _of_step(program, repetitions)
    return result | {
        "peak_bytes": _peak(),
        "batch_size": config.batch_size,
        "needs_at_test": list(program.setup.method.inputs.test),
        "device": program.setup.devices[0].device_kind,
        "load": round(os.getloadavg()[0], 2),
    }


def _of_test(program: FirstStep, repetitions: int) -> dict[str, Any]:
    """Parameters, FLOPs and rate of the prediction of one batch."""
    method, state = program.setup.method, program.state
    variables = state.variables(program.frozen)
    example = program.batch
    if example.image is not None:
        pixels = jnp.asarray(example.image, jnp.float32)
        example = dataclasses.replace(example, image=pixels)
    example = standardize(example, program.frozen)
    batch = parallel.to_devices(program.test_batch, 1)
    step: Any = program.setup.predict_step
    compiled = step.lower(variables, batch).compile()
    seconds = _median_s(lambda: compiled(variables, batch), repetitions)
    flop, count = _flop(compiled), len(program.test_batch.grade)
    return {
        "parameters": parameter_count(state.params),
        "test_parameters": _test_parameters(method, variables, example),
        "test_gflop_per_image": flop and flop / count / 1e9,
        "test_images_per_s": count / seconds,
    }


def _of_step(program: FirstStep, repetitions: int) -> dict[str, Any]:
    """FLOPs, time and memory of one training step."""
    placed = parallel.place(program.batch, program.setup.devices)
    schedule = Schedule(learning_rate=np.float32(1e-4))
    state, frozen = program.state, program.frozen
    step: Any = program.setup.train_step
    compiled = step.compiled(state, placed, schedule, frozen)

    def one_step() -> Any:  # the state passed in is donated
        nonlocal state
        state, metrics = compiled(state, placed, schedule, frozen)
        return metrics

    seconds = _median_s(one_step, repetitions)
    flop = _flop(compiled)
    return {
        "step_gflop": flop and flop / 1e9,
        "step_s": seconds,
        "step_bytes": _bytes(compiled),
    }


def _test_parameters(method: Method, variables: Variables, batch: Batch) -> int:
    """Number of trained scalars that a prediction depends on.

    Heads and projections that only the loss reads are not among them.
    """
    params, structure = jax.tree.flatten(variables.params)
    batch = jax.tree.map(jnp.asarray, batch)

    def predict(*leaves: jax.Array) -> jax.Array:
        own = jax.tree.unflatten(structure, leaves)
        return method.apply(dataclasses.replace(variables, params=own), batch).logits

    traced = jax.make_jaxpr(predict)(*params)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True])
    return sum(leaf.size for leaf, is_used in zip(params, used, strict=True) if is_used)


def _median_s(call: Callable[[], Any], repetitions: int) -> float:
    times = []
    for i in range(2 + repetitions):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        if i > 1:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _flop(program: Any) -> float | None:
    """FLOPs of products and convolutions; None where they cannot be counted."""
    try:
        return flops.count(program.as_text()) or None
    except ValueError:  # a loop of unknown length, or products in a library's call
        return None


def _bytes(program: Any) -> int | None:
    """Arguments, results and temporaries; donated arguments are counted once."""
    memory = program.memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _peak() -> int:
    statistics_ = jax.local_devices()[0].memory_stats()
    if statistics_ and "peak_bytes_in_use" in statistics_:
        return int(statistics_["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
