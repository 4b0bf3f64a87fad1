"""Cells of a comparison: one fold of one row with one seed, each in its own process.

A cell is a run of `train` on the work directory of its row and seed. It is trained
under a lock, so that several processes on one file system share the work, and ends
alone: its exit code and last message are kept beside the log.
"""

import contextlib
import dataclasses
import enum
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fof_jax import files
from fof_jax.training import preemption

CHILD = "fof_jax.cli.child"  # a module that runs one command and ends with its parent
_POLL = 0.2  # seconds between looks at a running cell


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One fold of one row with one seed, in the order of training."""

    seed: int
    fold: int
    row: str = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}, fold {self.fold}"


class State(enum.Enum):
    """What is known of a cell."""

    FINISHED = "finished"
    FAILED = "failed"
    BUSY = "in another process"
    OPEN = "not finished"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Paths below the folder of a comparison."""

    root: Path

    @property
    def teachers(self) -> Path:
        """Folder that the rows with a teacher share."""
        return self.root / "teachers"

    def workdir(self, row: str, seed: int) -> Path:
        """Work directory of a row with one seed."""
        return self.root / "cells" / row / f"seed_{seed}"

    def predictions(self, cell: Cell) -> Path:
        """The file that marks a cell as finished."""
        return self.workdir(cell.row, cell.seed) / f"fold_{cell.fold}/predictions.csv"

    def log(self, cell: Cell) -> Path:
        """Output of a cell's process."""
        return self._beside(cell, "log")

    def outcome(self, cell: Cell) -> Path:
        """How a cell's last process ended."""
        return self._beside(cell, "json")

    def lock(self, cell: Cell) -> Path:
        """Held by the process that trains the cell."""
        return self.root / ".locks" / self._name(cell)

    def cost(self, row: str) -> Path:
        """Cost of a row, written by `cost`."""
        return self.root / "cost" / f"{row}.json"

    def _beside(self, cell: Cell, suffix: str) -> Path:
        return self.root / "logs" / f"{self._name(cell)}.{suffix}"

    def _name(self, cell: Cell) -> str:
        return f"{cell.row}-seed_{cell.seed}-fold_{cell.fold}"


def state(folder: Folder, cell: Cell) -> State:
    """State of a cell; one that failed is tried again by the next run."""
    if folder.predictions(cell).exists():
        return State.FINISHED
    if _is_locked(folder.lock(cell)):
        return State.BUSY
    return State.FAILED if outcome(folder, cell).get("code") else State.OPEN


def outcome(folder: Folder, cell: Cell) -> dict[str, Any]:
    """How the last process of a cell ended: code, seconds, resumed, reason; or {}."""
    try:
        return json.loads(folder.outcome(cell).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def run(
    folder: Folder,
    cells: Sequence[Cell],
    command: Callable[[Cell], list[str]],
    *,
    after: Callable[[Cell, preemption.StopRequest], None],
    log: Callable[[str], None],
) -> None:
    """Trains the cells that are not finished, one after the other.

    A cell that fails, or that another process trains, does not end the others. Those
    in other processes are looked at once more at the end.

    Args:
      folder: of the comparison.
      cells: in the order of training.
      command: words of `train` for a cell.
      after: called after each cell that this call has trained.
      log: prints a line.

    Raises:
      preemption.Stopped: by a signal; the cell has saved its state.
    """
    waiting = [cell for cell in cells if state(folder, cell) is not State.FINISHED]
    with preemption.signal_handlers() as stop:
        for _ in range(2):
            busy = []
            for cell in waiting:
                left = sum(not folder.predictions(c).exists() for c in cells)
                with _lock(folder, cell) as ours:
                    if not ours:
                        busy.append(cell)
                        continue
                    if folder.predictions(cell).exists():
                        continue
                    log(f"{cell}: begins ({left} of {len(cells)} cells left)")
                    ended = _train(folder, cell, command(cell), stop)
                    if stop.code:
                        raise preemption.Stopped(stop.code)
                    log(f"{cell}: {_describe(ended)}")
                after(cell, stop)
                if stop.code:
                    raise preemption.Stopped(stop.code)
            waiting = busy
    for cell in waiting:
        log(f"{cell}: {State.BUSY.value}")


def run_child(
    words: Sequence[str],
    output: Path,
    stop: preemption.StopRequest,
) -> int:
    """Runs one command in a process that ends with this one; returns its exit code.

    Args:
      words: of the command line.
      output: file that its output is appended to.
      stop: a pending stop is passed on as SIGTERM, once.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(os.getpid()), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it through `stop` alone
        )
        passed_on = False
        while (code := child.poll()) is None:
            if stop.code and not passed_on:
                child.send_signal(signal.SIGTERM)
                passed_on = True
            time.sleep(_POLL)
    return code


def seconds_left(folder: Folder, cells: Sequence[Cell]) -> float | None:
    """Time for the unfinished cells, from the measured ones; None without any.

    A cell takes the median of the measured cells of its row, or else of all. Cells
    that were resumed do not count, because a part of their time is unknown.
    """
    measured: dict[str, list[float]] = {}
    for path in sorted((folder.root / "logs").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            one = json.loads(path.read_text(encoding="utf-8"))
            if one["code"] == 0 and not one["resumed"]:
                measured.setdefault(one["row"], []).append(one["seconds"])
    everything = [value for values in measured.values() for value in values]
    if not everything:
        return None
    return sum(
        statistics.median(measured.get(cell.row, everything))
        for cell in cells
        if state(folder, cell) is not State.FINISHED
    )


def _train(
    folder: Folder, cell: Cell, words: list[str], stop: preemption.StopRequest
) -> dict[str, Any]:
    """Runs the process of a cell and writes its outcome, unless it was stopped."""
    saved = folder.predictions(cell).parent
    resumed = any(saved.rglob("checkpoints/*/manifest.json"))
    begin = time.monotonic()
    log = folder.log(cell)
    before = log.stat().st_size if log.exists() else 0
    code = run_child(words, log, stop)
    if code == 0 and not folder.predictions(cell).exists():
        code = 1
    ended = {
        "row": cell.row,
        "code": code,
        "seconds": round(time.monotonic() - begin, 1),
        "resumed": resumed,
        "reason": _reason(log, before, code) if code else "",
    }
    if not stop.code:
        files.write_text(folder.outcome(cell), json.dumps(ended, indent=1) + "\n")
    return ended


def _reason(log: Path, begin: int, code: int) -> str:
    """Why a cell failed: the signal that ended it, or the last lines of its log."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does where memory is short" if code == -9 else ""
        return f"ended by {name}{hint}"
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    # The message of `main` begins with its kind; a crash ends with its exception.
    kinds = ("error: ", "not finite: ", "lost: ")
    at = next((i for i, line in enumerate(lines) if line.startswith(kinds)), -1)
    return " ".join(" ".join(lines[at:]).split())[:500] or f"exit code {code}"


def _describe(ended: dict[str, Any]) -> str:
    took = f"{ended['seconds']:.0f} s"
    if ended["code"]:
        return f"failed after {took}: {ended['reason']}"
    return f"finished in {took}" + (", resumed" if ended["resumed"] else "")


@contextlib.contextmanager
def _lock(folder: Folder, cell: Cell) -> Iterator[bool]:
    """Holds the lock of a cell; yields False if another process does."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(
                files.exclusive_lock(folder.lock(cell), str(cell), lambda _: None)
            )
        except ValueError:
            yield False
            return
        yield True


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False
