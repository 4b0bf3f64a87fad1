"""Environment check: findings on devices, versions, data and memory, with remedies.

Nothing here writes, and nothing raises on what it finds.
"""

import concurrent.futures.process
import dataclasses
import importlib.metadata
import multiprocessing
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from packaging.requirements import Requirement

from fof_jax.data import cache, prepare
from fof_jax.data.store import open_store
from fof_jax.training import backend_error, init_weights, parallel, weights
from fof_jax.training import state as training_state
from fof_jax.training.build import build, config_info, validate
from fof_jax.training.device_cache import NAME, fit
from fof_jax.types import Batch

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_NVIDIA = Path("/proc/driver/nvidia")
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
      verdict: PASS, WARN or FAIL.
      subject: what was looked at.
      found: what was found.
      remedy: what to do; "" where nothing is needed.
    """

    verdict: str
    subject: str
    found: str
    remedy: str = ""


def examine(config: ConfigDict | None) -> Iterator[Finding]:
    """Runs all checks, the slow ones last.

    Args:
      config: what is to be run; None leaves out what depends on it.
    """
    devices_finding = devices()
    yield devices_finding
    yield from versions()
    if devices_finding.verdict == FAIL:
        return  # everything below computes
    if config is None:
        yield Finding(
            WARN, "config", "none given: data and memory not looked at",
            "Pass --config=configs/NAME.py.",
        )  # fmt: skip
        return
    questions: tuple[tuple[str, Callable[[ConfigDict], Finding]], ...] = (
        ("config", configuration),
        ("data", data),
        ("weights", initial_weights),
        ("step", tiny_step),
        ("memory", memory),
    )
    for subject, question in questions:
        try:
            finding = question(config)
        except (ValueError, OSError, RuntimeError) as error:
            finding = Finding(FAIL, subject, str(error))
        yield finding
        if finding.verdict == FAIL and subject in ("config", "step"):
            return  # later checks would fail for the same reason


def devices() -> Finding:
    """Checks which devices JAX uses, and whether a GPU is left unused."""
    try:
        local = jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        no_backend = backend_error.message(error)
        if no_backend is None:
            raise
        return Finding(FAIL, "devices", no_backend)
    text = f"{len(local)} x {local[0].device_kind} ({local[0].platform})"
    if local[0].platform == "cpu" and _NVIDIA.exists():
        return Finding(
            WARN, "devices", f"{text}, but the machine has an NVIDIA driver",
            "pip install -e '.[gpu]'.",
        )  # fmt: skip
    return Finding(PASS, "devices", text)


def versions() -> Iterator[Finding]:
    """Checks installed versions against the tested ranges."""
    for requirement in map(Requirement, _requirements()):
        name = requirement.name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                FAIL, name, "is not installed", f"pip install '{requirement}'."
            )
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding(PASS, name, f"{version}, tested {requirement.specifier}")
        else:
            yield Finding(
                WARN, name, f"{version}; tested {requirement.specifier}",
                f"pip install '{requirement}'.",
            )  # fmt: skip


def configuration(config: ConfigDict) -> Finding:
    """Checks the config fields that do not depend on data."""
    validate(config)
    side = config.data.image_size
    return Finding(PASS, "config", f"{config.method}, {config.encoder}, {side} px")


def data(config: ConfigDict) -> Finding:
    """Checks that the store exists; the phantom is generated at the first run."""
    try:
        store = open_store(config.data.dir, config.data.name)
    except ValueError as error:
        if prepare.source(config) == "phantom":
            return Finding(PASS, "data", "the phantom is generated at the first run")
        return Finding(FAIL, "data", str(error))
    patients = len(set(store.patients))
    return Finding(PASS, "data", f"{len(store)} regions of {patients} patients")


def initial_weights(config: ConfigDict) -> Finding:
    """Checks that the initial weights can be read."""
    folder = init_weights.checkpoint_path(config.init.checkpoint)
    if folder is None:
        return Finding(PASS, "weights", "initialized at random, none configured")
    init_weights.require_checkpoint(config.init.checkpoint)
    loaded = weights.read(folder)
    return Finding(PASS, "weights", f"{', '.join(sorted(loaded.params))} read")


def tiny_step(config: ConfigDict) -> Finding:
    """Compiles and runs one step of the method, with the smallest encoder."""
    small = ConfigDict(config.to_dict())
    patch = int(config.encoder.partition("/")[2])
    small.encoder, small.data.image_size = f"mu/{patch}", 4 * patch
    metrics = _run(small)
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        return Finding(
            FAIL, "step", f"{', '.join(bad)} not finite", "Reinstall jax and jaxlib."
        )
    return Finding(PASS, "step", f"compiled and run, loss {metrics['total']:.3f}")


def memory(config: ConfigDict) -> Finding:
    """Compares the memory of a training step with the free memory."""
    need = estimate(config)
    statistics = jax.local_devices()[0].memory_stats() or {}
    # On a CPU the estimate is of a process of its own, beside this one.
    free = statistics.get("bytes_limit", cache.available_memory())
    text = f"a step needs about {need / _MIB:.0f} MiB, {free / _MIB:.0f} MiB are free"
    if config.data.cache == NAME:
        text += f"; {fit(config)}"
    if need > free:
        return Finding(
            FAIL, "memory", text,
            "Pass a smaller --config.batch_size or --config.data.image_size, or "
            "--config.remat=block.",
        )  # fmt: skip
    return Finding(PASS, "memory", text)


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
        step, _ = _compiled(config)
        analysis = _memory_analysis(step)
        return analysis.argument_size_in_bytes + _arrays(analysis)
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
    step, arguments = _compiled(config)
    stays = _status("VmRSS")  # the arguments among it
    del arguments
    return max(_peak(), stays + _arrays(_memory_analysis(step)))


def _memory_analysis(step: Any) -> Any:
    analysis = step.memory_analysis()
    if analysis is None:
        raise RuntimeError("XLA reports no memory analysis here; try the run itself.")
    return analysis


def _arrays(analysis: Any) -> int:
    """Bytes of results and temporaries; the state is donated to the results."""
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _run(config: ConfigDict) -> dict[str, float]:
    step, arguments = _compiled(config)
    return {k: float(v) for k, v in step(*arguments)[1].items()}


def _compiled(config: ConfigDict) -> tuple[Any, tuple]:
    """The compiled training step, and random arguments for it."""
    setup = build(config, config_info(config))
    batch = _noise(config)
    state = training_state.initial_state(
        setup.method, setup.optimizer, jax.random.key(0), batch
    )
    arguments: tuple[Any, ...] = (
        state,
        parallel.to_devices(batch, len(setup.devices)),
        training_state.Schedule(learning_rate=np.float32(1e-4)),
        {},
    )
    return setup.train_step.compiled(*arguments), arguments  # type: ignore[attr-defined]


def _noise(config: ConfigDict) -> Batch:
    rng = np.random.default_rng(0)
    rows, side = config.batch_size, config.data.image_size
    n, floats = len(config.data.biomarkers), len(config.data.float_markers)
    return Batch(
        image=rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        grade=rng.integers(0, len(config.data.classes), rows).astype(np.int32),
        biomarkers=rng.integers(0, 2, (rows, n)).astype(np.int32),
        known=np.ones((rows, n), bool),
        floats=rng.normal(size=(rows, floats)).astype(np.float32),
        index=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )


def _requirements() -> list[str]:
    """Dependencies of this version: from the checkout, or else as installed."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.exists():
        return tomllib.loads(project.read_text())["project"]["dependencies"]
    listed = importlib.metadata.requires("fof-jax") or []
    return [line for line in listed if "extra ==" not in line]


def _peak() -> int:
    """Peak of this process alone; getrusage's includes that of its parent."""
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; try the run itself.")
