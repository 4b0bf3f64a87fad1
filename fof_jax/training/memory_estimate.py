"""Peak memory of a training process, from its compiled step; nothing is run."""

import concurrent.futures.process
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data.store import open_store
from fof_jax.training import first_step, parallel
from fof_jax.training.first_step import FirstStep
from fof_jax.training.state import Schedule


def estimate(config: ConfigDict) -> int:
    """Peak bytes of a training process, without cached images.

    The step of this very configuration is compiled, not run. On a CPU the whole process
    counts, and memory that compiling has taken once stays: another process compiles, so
    that nothing which was done here before is in the figure.

    Raises:
      RuntimeError: XLA reports no memory analysis, or the system ended the process
        that compiles.
    """
    if jax.default_backend() != "cpu":  # memory of the device alone
        return max(
            analysis.argument_size_in_bytes + _arrays(analysis)
            for analysis in (_memory_analysis(step) for step, _ in programs(config))
        )
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn")
    ) as alone:
        peak = alone.submit(_peak_of_compiling, config, jax.local_device_count())
        try:
            return peak.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise RuntimeError(
                "the system ended the process that compiles the step, as it does where "
                "memory is short"
            ) from None


def _peak_of_compiling(config: ConfigDict, devices: int) -> int:
    """max(peak of compilation, resident memory + arrays of the step).

    Args:
      devices: that the CPU is divided into, which the process that asks has settled.
    """
    from fof_jax.training import crossval  # noqa: F401  # training has it in memory

    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)
    # The peak is that of compiling, which a kept program would leave out.
    jax.config.update("jax_enable_compilation_cache", False)
    largest = 0
    for step, _ in programs(config):
        # The arguments are among what is resident.
        need = _status("VmRSS") + _arrays(_memory_analysis(step))
        largest = max(largest, need, _peak())
    return largest


def _memory_analysis(step: Any) -> Any:
    analysis = step.memory_analysis()
    if analysis is None:
        raise RuntimeError("XLA reports no memory analysis here; try the run itself.")
    return analysis


def _arrays(analysis: Any) -> int:
    """Bytes of results and temporaries; the state is donated to the results."""
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def programs(config: ConfigDict) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The compiled step of each stage, or of its `steps_per_call`, and its arguments.

    Raises:
      ValueError: there is no store, and the method needs more than images.
    """
    if first_step.reads_images_alone(config):
        stages = iter([first_step.of_noise(config)])
    else:
        data = open_store(config.data.dir, config.data.name)
        stages = first_step.of_stages(config, data)
    for stage in stages:
        yield _compiled(stage, config.get("steps_per_call", 1))


def _compiled(first: FirstStep, count: int) -> tuple[Any, tuple[Any, ...]]:
    setup = first.setup
    schedule = Schedule(learning_rate=np.float32(1e-4))
    if count == 1:
        batch = parallel.place(first.batch, setup.devices)
        program: Any = setup.train_step
    else:
        batch = parallel.place_several([first.batch] * count, setup.devices)
        schedule = jax.tree.map(lambda a: np.repeat(a, count), schedule)
        program = setup.train_steps
    arguments = (first.state, batch, schedule, first.frozen)
    return program.compiled(*arguments), arguments


def _peak() -> int:
    """Peak of this process alone; getrusage's includes that of its parent."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; try the run itself.")
