"""A run that writes its current phase to a file, for `kill.py`.

    python benchmarks/robustness/kill_child.py NOTE train --config=…

The run is unchanged; wrappers of some of its functions write the phase.
"""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax.cli.main import main
from fof_jax.training import build, checkpoint, evaluator

WIDTH = 32  # bytes, written at once, so that a reader never sees a part


class PhaseFile:
    """Writes the current phase and its count to a file."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY)
        self._counts: Counter[str] = Counter()
        self._now = "start 0"

    def enter(self, activity: str) -> str:
        """Writes a phase; returns the previous one."""
        before = self._now
        self._counts[activity] += 1
        self._write(f"{activity} {self._counts[activity]}")
        return before

    def _write(self, text: str) -> None:
        self._now = text
        os.pwrite(self._file, text.ljust(WIDTH).encode(), 0)

    def during(self, activity: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function that is a phase while it runs."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            before = self.enter(activity)
            try:
                return work(*arguments, **named)
            finally:
                self._write(before)

        return wrapped

    def starting(self, activity: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function whose call starts a phase."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.enter(activity)
            return work(*arguments, **named)

        return wrapped


def watch(phase: PhaseFile) -> None:
    """Wraps the functions of a run."""
    checkpoint.Checkpoints.save = phase.during("save", checkpoint.Checkpoints.save)
    evaluator.predict = phase.during("evaluation", evaluator.predict)
    # From the last save of a fold to the first step of the next one.
    checkpoint.Checkpoints.close = phase.starting(
        "fold change", checkpoint.Checkpoints.close
    )
    build_setup = build.build

    def build_wrapped(*arguments: Any) -> Any:
        setup = build_setup(*arguments)
        step = phase.starting("step", setup.train_step)
        return dataclasses.replace(setup, train_step=step)

    build.build = build_wrapped


if __name__ == "__main__":
    watch(PhaseFile(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
