"""Measurement conditions, timing and memory."""

import contextlib
import functools
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from fof_jax.training import workdir


def conditions() -> dict[str, Any]:
    """Commit of the code, device, versions and current load of the machine."""
    device = jax.local_devices()[0]
    return {
        "commit": commit(),
        "device": f"{device.platform}: {device.device_kind}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


@functools.cache
def commit() -> str:
    """The commit that this process began with; `-dirty` where files were changed."""
    version, changes = workdir.code_version()
    return f"{version or 'unknown'}{'-dirty' if changes else ''}"


def processor() -> str:
    """Model name of the CPU, or its architecture if unknown."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def peak_gib() -> float:
    """Peak resident memory of this process in GiB, including compilation."""
    with contextlib.suppress(OSError):  # Linux: can be reset, unlike getrusage's
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def device_peak_gib() -> float | None:
    """Peak memory of the first device in GiB; None where it is the host's."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30


def product_gflops(side: int = 3072, reps: int = 5) -> float:
    """Rate of one large float32 matrix product in GFLOP/s, the fastest of `reps`.

    It is an upper bound for a step that consists mostly of matrix products.
    """
    square = jnp.ones((side, side), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    seconds = timed(lambda: product(square), reps)["wall_min_s"]
    return 2 * side**3 / seconds / 1e9


def timed(work: Callable[[], Any], reps: int, warmups: int = 1) -> dict[str, float]:
    """Times `work`, including the wait for its arrays; medians over `reps`.

    Returns:
      wall_s and cpu_s (all threads of this process) per call, and the minimum and
      maximum of wall_s.
    """
    for _ in range(warmups):
        jax.block_until_ready(work())
    walls, cpus = [], []
    for _ in range(reps):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(work())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "wall_min_s": min(walls),
        "wall_max_s": max(walls),
    }


def report(lines: dict[str, Any], result: dict[str, Any]) -> None:
    """Prints lines of text, then the result as one line of JSON."""
    for name, value in lines.items():
        print(f"{name:20} {value}", flush=True)
    print(json.dumps(result), flush=True)
