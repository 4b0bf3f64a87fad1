"""Training metrics logger: metrics.jsonl, trackers, terminal lines."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fof_jax import files
from fof_jax.evaluation import predictions
from fof_jax.training import tracking

_TESTED = "test_accuracy"
_INTERVAL = 15.0  # seconds between lines without a terminal


class MetricsLogger:
    """Writes metrics.jsonl, events of trackers and lines on the terminal.

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
        trackers: Sequence[str] = (),
        fields: Mapping[str, Any] | None = None,
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
          trackers: of `option_ranges.tracker_names`, beside TensorBoard.
          fields: of the config by flat name, the hyper-parameters of the trackers.
        """
        self._path = folder / "metrics.jsonl"
        kept = _keep_steps_below(self._path, first)
        self._evaluated = {line["step"] for line in kept if _TESTED in line}
        self._file = self._path.open("a")
        self._trackers = tracking.open_trackers(
            trackers, folder, label=label, first=first, fields=fields or {}, log=log
        )
        self._total, self._per_epoch = total, per_epoch
        self._every, self._log, self._label = every, log, label
        self._start = self._last = self._printed = time.monotonic()
        self._begun, self._waited, self._share = first, 0.0, 0.0
        self._live = getattr(log, "live", None)

    def __enter__(self):
        return self

    def __exit__(self, error: object, *_):
        self._file.close()
        for tracker in self._trackers:
            tracker.close(finished=error is None)

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
            self._share = self._share_waited()
            shown = figures | {"steps_per_second": rate, "input_wait": self._share}
            self._track({f"train/{name}": value for name, value in shown.items()}, done)
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
        self._track({"test/accuracy": right}, done)

    def validation(self, done: int, figures: Mapping[str, float]) -> None:
        """Logs the metrics of the validation rows after `done` steps."""
        self._line({"step": done, **figures})
        named = {k.replace("_", "/", 1): v for k, v in figures.items()}
        self._track(named, done)

    def result(self, done: int, figures: Mapping[str, float]) -> None:
        """Tracks the metrics of the fold's test; metrics.jsonl does not have them."""
        self._track({f"result/{name}": value for name, value in figures.items()}, done)

    def picture(self, done: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Tracks a picture after `done` steps."""
        for tracker in self._trackers:
            tracker.picture(name, pixels, done)

    def _track(self, values: Mapping[str, float], done: int) -> None:
        for tracker in self._trackers:
            tracker.scalars(values, done)

    def _line(self, figures: Mapping[str, float | int]) -> None:
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()


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

    def result(self, done: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def picture(self, done: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
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
