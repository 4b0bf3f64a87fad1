"""Training metrics logger: metrics.jsonl, TensorBoard events, terminal lines."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from fof_jax import files
from fof_jax.evaluation import predictions

_TESTED = "test_accuracy"
_INTERVAL = 15.0  # seconds between lines without a terminal


class MetricsLogger:
    """Writes metrics.jsonl, TensorBoard events and lines on the terminal.

    metrics.jsonl contains no timing, so that identical runs write identical files. A
    terminal shows one line that is rewritten at each step, where `log` has a function
    `live`; elsewhere a line is printed every 15 s and at the last step. Rates count
    from `begin`, so that compiling is not in them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str,
        first: int,
        total: int,
        per_epoch: int,
        every: int,
        log: Callable[[str], None],
    ):
        """Opens the files of a fold, truncating entries after the restored step.

        Args:
          folder: of the fold.
          label: begins every line.
          first: steps already taken; later lines of an older file are dropped.
          total: steps in all.
          per_epoch: steps an epoch.
          every: steps between lines of metrics.jsonl.
          log: prints a line; see above for `live`.
        """
        self._path = folder / "metrics.jsonl"
        kept = _keep_steps_below(self._path, first)
        self._evaluated = {line["step"] for line in kept if _TESTED in line}
        self._file = self._path.open("a")
        self._events = _Events(folder / "tensorboard", purge_step=first)
        self._total, self._per_epoch = total, per_epoch
        self._every, self._log, self._label = every, log, label
        self._start = self._last = self._printed = time.monotonic()
        self._begun, self._waited, self._share = first, 0.0, 0.0
        self._live = getattr(log, "live", None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._events.close()

    def begin(self, step: int) -> None:
        """Starts the clock of the rates before step `step`, once it is compiled."""
        self._begun, self._waited = step, 0.0
        self._start = self._last = time.monotonic()

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Logs the metrics of step `step` (from 0), and shows them when it is time."""
        done = step + 1
        now = time.monotonic()
        rate = (done - self._begun) / max(now - self._start, 1e-9)
        if not done % self._every or done == self._total:
            self._line({"step": done, "epoch": step / self._per_epoch} | figures)
            for name, value in figures.items():
                self._events.scalar(f"train/{name}", value, done)
            self._events.scalar("train/steps_per_second", rate, done)
            self._share = self._share_waited()
            self._events.scalar("train/input_wait", self._share, done)
        if self._live is not None and done < self._total:
            self._live(self._text(done, figures, rate))
        elif done == self._total or now - self._printed >= _INTERVAL:
            self._printed = now
            self._log(self._text(done, figures, rate))

    def _text(self, done: int, figures: dict[str, float], rate: float) -> str:
        left = (self._total - done) / rate
        terms = " ".join(
            f"{name} {figures[name]:.4f}"
            for name in ("total", "cls", "frl", "mca", "kept")
            if name in figures
        )
        return (
            f"{self._label} step {done}/{self._total} {terms} ({rate:.2f} steps/s, "
            f"{self._share:.0%} waiting for input, {left:.0f} s left in this fold)"
        )

    def waited(self, seconds: float) -> None:
        """Adds time that a step waited for its batch."""
        self._waited += seconds

    def _share_waited(self) -> float:
        """Fraction of the time since the last line that was spent waiting for input."""
        now = time.monotonic()
        share = self._waited / max(now - self._last, 1e-9)
        self._last, self._waited = now, 0.0
        return min(share, 1.0)

    def evaluated(self, done: int) -> bool:
        """Whether the existing file holds an evaluation after `done` steps."""
        return done in self._evaluated

    def evaluation(self, done: int, tested: predictions.Predictions) -> None:
        """Logs the accuracy on the test fold after `done` steps."""
        right = float((tested.pred == tested.y).mean())
        self._line({"step": done, _TESTED: right})
        self._events.scalar("test/accuracy", right, done)

    def validation(self, done: int, figures: Mapping[str, float]) -> None:
        """Logs the metrics of the validation rows after `done` steps."""
        self._line({"step": done, **figures})
        for name, value in figures.items():
            self._events.scalar(name.replace("_", "/", 1), value, done)

    def _line(self, figures: Mapping[str, float | int]) -> None:
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()


class _Events:
    """TensorBoard event file, written synchronously.

    tensorboardX's own SummaryWriter writes in a thread: on a full disk that ends, and
    training waits for it for ever.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(purge_step, session_log=started)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(step, summary=summary.scalar(name, value))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **what)
        self._writer.write_event(event)


class NullLogger:
    """Logger without output, for the processes that do not write."""

    def __init__(self, folder: Path, **_):
        """Opens nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def begin(self, step: int) -> None:
        """Nothing."""

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def waited(self, seconds: float) -> None:
        """Nothing."""

    def evaluated(self, done: int) -> bool:
        """False: nothing is read."""
        return False

    def evaluation(self, done: int, tested: predictions.Predictions) -> None:
        """Nothing."""

    def validation(self, done: int, figures: Mapping[str, float]) -> None:
        """Nothing."""


def _keep_steps_below(path: Path, first: int) -> list[dict]:
    """Removes the lines of steps after the last checkpoint of a killed run.

    Returns:
      What the lines that stay hold.

    Raises:
      ValueError: a line of the steps that are kept is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    kept: list[tuple[str, dict]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break  # the last: a kill has cut it off
        try:
            figures = json.loads(line)
            step = figures["step"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}: line {number} is damaged. Bring back a copy, or delete "
                f"{path.parent} to train this fold again."
            ) from None
        if step <= first:
            kept.append((line, figures))
    files.write_text(path, "".join(line for line, _ in kept))
    return [figures for _, figures in kept]
