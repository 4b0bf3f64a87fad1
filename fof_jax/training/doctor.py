"""Environment check: findings on devices, versions, data and memory, with remedies.

Nothing here writes, and nothing raises on what it finds.
"""

import dataclasses
import importlib.metadata
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from packaging.requirements import Requirement

from fof_jax.data import cache, prepare
from fof_jax.data.store import open_store
from fof_jax.training import (
    backend_error,
    first_step,
    init_weights,
    memory_estimate,
    parallel,
    weights,
)
from fof_jax.training.build import validate
from fof_jax.training.device_cache import NAME, fit

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
    """Compiles and runs one step of each stage, with the smallest encoder of images."""
    if not _has_inputs(config):
        return _not_yet("step", config)
    bad, losses = set(), []
    for step, arguments in memory_estimate.programs(_small(config)):
        metrics = {k: float(v) for k, v in step(*arguments)[1].items()}
        bad |= {name for name, value in metrics.items() if not np.isfinite(value)}
        losses.append(f"{metrics['total']:.3f}")
    if bad:
        text = f"{', '.join(sorted(bad))} not finite"
        return Finding(FAIL, "step", text, "Reinstall jax and jaxlib.")
    return Finding(PASS, "step", f"compiled and run, loss {', '.join(losses)}")


def _small(config: ConfigDict) -> ConfigDict:
    """Of four patches by four where noise will do, and of two records a device."""
    small = ConfigDict(config.to_dict())
    small.steps_per_call = 1
    _, _, patch = config.encoder.partition("/")
    if patch.isdigit() and first_step.reads_images_alone(config):
        small.encoder, small.data.image_size = f"mu/{patch}", 4 * int(patch)
        return small
    count = len(parallel.choose_devices(config.batch_size, config.devices))
    small.batch_size = min(config.batch_size, 2 * count)
    return small


def _has_inputs(config: ConfigDict) -> bool:
    """Whether a step can be compiled: by noise, or as the store is there."""
    if first_step.reads_images_alone(config):
        return True
    try:
        open_store(config.data.dir, config.data.name)
    except ValueError:
        return False
    return True


def _not_yet(subject: str, config: ConfigDict) -> Finding:
    return Finding(
        WARN, subject,
        f"not looked at: {config.method} reads more than images, and there is no store",
        "Build it, data build with the same --config, and ask again.",
    )  # fmt: skip


def memory(config: ConfigDict) -> Finding:
    """Compares the memory of a training step with the free memory."""
    if not _has_inputs(config):
        return _not_yet("memory", config)
    need = memory_estimate.estimate(config)
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


def _requirements() -> list[str]:
    """Dependencies of this version: from the checkout, or else as installed."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.exists():
        return tomllib.loads(project.read_text())["project"]["dependencies"]
    listed = importlib.metadata.requires("fof-jax") or []
    return [line for line in listed if "extra ==" not in line]
