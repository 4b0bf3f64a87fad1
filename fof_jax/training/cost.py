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

from fof_jax.data import (
    loader,
    metadata,
    prepare,
    splits,
    store,
    superpixels,
    validation,
)
from fof_jax.data.cache import decoding_threads
from fof_jax.methods import registry
from fof_jax.methods.base import Method, parameter_count, standardize
from fof_jax.training import build, cell_graphs, flops, fold_constants, parallel
from fof_jax.training.state import Schedule, TrainState, initial_state
from fof_jax.types import Batch, Params, Variables

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
    program = _prepare(config, data)
    result = _of_test(program, repetitions) | _of_step(program, repetitions)
    return result | {
        "peak_bytes": _peak(),
        "batch_size": config.batch_size,
        "needs_at_test": list(program.setup.method.inputs.test),
        "device": program.setup.devices[0].device_kind,
        "load": round(os.getloadavg()[0], 2),
    }


@dataclasses.dataclass(frozen=True)
class _Program:
    """What the last stage of a fold computes with, on one device."""

    setup: build.Setup
    state: TrainState
    frozen: Params
    batch: Batch  # of training
    tested: Batch


def _prepare(config: ConfigDict, data: store.Store) -> _Program:
    """Initializes the last stage of a fold, after stages with random weights."""
    config = ConfigDict(config.to_dict())
    config.devices = 1
    folds = splits.make_splits(
        data,
        scheme=config.data.scheme,
        folds=config.folds,
        seed=prepare.data_seed(config),
    )
    folds = validation.with_validation(
        folds, data, fraction=config.validation, seed=prepare.data_seed(config)
    )
    rows, test_rows = folds.folds[config.fold or 0]
    # Batches on the host, as a step is measured without its input.
    cached = "ram" if config.data.cache == "device" else config.data.cache
    images = loader.open_cache(data, config.data.image_size, cached)
    options: Any = {
        "image_size": config.data.image_size,
        "cache": images,
        "threads": decoding_threads(config),
    }
    earlier: Params = {}
    for name in (*config.stages[:-1], ""):
        stage_config = registry.stage_config(config, name) if name else config
        if not name and config.stages:
            stage_config = registry.stage_config(config, config.stages[-1])
        setup = build.build(stage_config, metadata.dataset_info(data))
        inputs = setup.method.inputs
        of_graphs = cell_graphs.open_for(stage_config, inputs, data)
        batch = next(
            loader.train_batches(
                data,
                rows,
                batch_size=stage_config.batch_size,
                epochs=1,
                seed=stage_config.seed,
                omics="omics" in inputs.train,
                superpixels=superpixels.open_maps(data, inputs.superpixels),
                **cell_graphs.loading(inputs.train, of_graphs),
                **options,
            )
        )
        frozen = earlier | fold_constants.measure(
            stage_config, inputs, data, of_graphs, rows, taught=bool(earlier)
        )
        state = initial_state(
            setup.method, setup.optimizer, jax.random.key(0), batch, frozen
        )
        host = jax.device_get(state)
        earlier |= {name: Variables(params=host.params, state=host.state)}
    tested = next(
        loader.eval_batches(
            data,
            test_rows[: config.eval_batch_size],
            batch_size=config.eval_batch_size,
            omics="omics" in inputs.test,
            **cell_graphs.loading(inputs.test, of_graphs),
            **options,
        )
    )
    return _Program(setup, state, frozen, batch, tested)


def _of_test(program: _Program, repetitions: int) -> dict[str, Any]:
    """Parameters, FLOPs and rate of the prediction of one batch."""
    method, state = program.setup.method, program.state
    variables = state.variables(program.frozen)
    example = program.batch
    if example.image is not None:
        pixels = jnp.asarray(example.image, jnp.float32)
        example = dataclasses.replace(example, image=pixels)
    example = standardize(example, program.frozen)
    batch = parallel.to_devices(program.tested, 1)
    step: Any = program.setup.predict_step
    compiled = step.lower(variables, batch).compile()
    seconds = _median_s(lambda: compiled(variables, batch), repetitions)
    flop, count = _flop(compiled), len(program.tested.grade)
    return {
        "parameters": parameter_count(state.params),
        "test_parameters": _test_parameters(method, variables, example),
        "test_gflop_per_image": flop and flop / count / 1e9,
        "test_images_per_s": count / seconds,
    }


def _of_step(program: _Program, repetitions: int) -> dict[str, Any]:
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
