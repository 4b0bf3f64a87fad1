"""Times several implementations in alternation, under the same load."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

# Forward, and forward with backward, of one implementation; both are synchronous.
Pair = tuple[Callable[[], Any], Callable[[], Any]]
METRICS = ("forward_ms", "forward_cpu_ms", "both_ms", "both_cpu_ms")


def race(runs: dict[str, Pair], reps: int) -> dict[str, dict[str, float]]:
    """Runs every implementation once per round, `reps` rounds after one warmup round.

    Returns:
      Medians of `METRICS` by implementation; CPU time is of all threads.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(reps + 1):
        for name, pair in runs.items():
            measured = []
            for work in pair:
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                measured += [time.perf_counter() - wall, time.process_time() - cpu]
            times[name].append(measured)
    return {
        run: {
            name: round(1e3 * median(row[i] for row in rows[1:]), 1)
            for i, name in enumerate(METRICS)
        }
        for run, rows in times.items()
    }


def ratios(results: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    """Ratios of PyTorch to `ours` by metric; empty without PyTorch."""
    if "torch" not in results:
        return {}
    return {
        f"torch_over_ours_{name.removesuffix('_ms')}": round(
            results["torch"][name] / results[ours][name], 2
        )
        for name in METRICS
    }
