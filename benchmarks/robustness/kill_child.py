"""A run that notes in a file what it is doing: the process that `kill.py` kills.

    python benchmarks/robustness/kill_child.py NOTE train --config=…

The functions are the project's own; what is put around them only writes the note.
"""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax.cli.main import main  # noqa: E402
from fof_jax.training import (
    checkpoint,
    crossval,
    train,  # noqa: E402
)

WIDTH = 32  # bytes of a note: one write, never torn


class Note:
    """The activity at this moment, and how often there was one of its kind."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY)
        self._counts: Counter[str] = Counter()
        self._now = "start 0"

    def begins(self, activity: str) -> str:
        """Notes it; gives back what was noted before."""
        before = self._now
        self._counts[activity] += 1
        self._write(f"{activity} {self._counts[activity]}")
        return before

    def _write(self, text: str) -> None:
        self._now = text
        os.pwrite(self._file, text.ljust(WIDTH).encode(), 0)

    def during(self, activity: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which is noted while it runs."""

        def noted(*arguments: Any, **named: Any) -> Any:
            before = self.begins(activity)
            try:
                return work(*arguments, **named)
            finally:
                self._write(before)

        return noted

    def from_then(self, activity: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, from whose call on it is noted."""

        def noted(*arguments: Any, **named: Any) -> Any:
            self.begins(activity)
            return work(*arguments, **named)

        return noted


def watch(note: Note) -> None:
    """Puts the notes around what a run does."""
    checkpoint.Checkpoints.save = note.during("save", checkpoint.Checkpoints.save)
    train.predict = note.during("evaluation", train.predict)
    # From a fold's last save to the next one's first step; its test is an evaluation.
    checkpoint.Checkpoints.close = note.from_then(
        "fold change", checkpoint.Checkpoints.close
    )
    build = crossval.build_program

    def build_noted(*arguments: Any) -> Any:
        made = build(*arguments)
        return dataclasses.replace(made, train=note.from_then("step", made.train))

    crossval.build_program = build_noted


if __name__ == "__main__":
    watch(Note(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
