"""Two implementations of one thing, timed in turns so that they share the machine."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

# Of one implementation: forward, and forward with backward. Each waits for its result.
Pair = tuple[Callable[[], Any], Callable[[], Any]]
FIGURES = ("forward_ms", "forward_cpu_ms", "both_ms", "both_cpu_ms")


def race(runs: dict[str, Pair], reps: int) -> dict[str, dict[str, float]]:
    """Every implementation once a round, `reps` rounds after one to warm up.

    Returns:
      Medians of `FIGURES` by implementation; cpu is of all threads of this process.
    """
    seen: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(reps + 1):
        for name, pair in runs.items():
            figures = []
            for work in pair:
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                figures += [time.perf_counter() - wall, time.process_time() - cpu]
            seen[name].append(figures)
    return {
        run: {
            name: round(1e3 * median(row[i] for row in rows[1:]), 1)
            for i, name in enumerate(FIGURES)
        }
        for run, rows in seen.items()
    }


def ratios(results: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    """PyTorch over ours, by figure; nothing where PyTorch did not run."""
    if "torch" not in results:
        return {}
    return {
        f"torch_over_ours_{name.removesuffix('_ms')}": round(
            results["torch"][name] / results[ours][name], 2
        )
        for name in FIGURES
    }
