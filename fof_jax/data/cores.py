"""Cores that this process may use."""

import os


def usable_cores() -> int:
    """Their number: of the machine, or of the process's share of it."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
