"""Trackers of a fold: TensorBoard, and on request Weights & Biases and MLflow.

Where these two write, and as what, is set by their own environment variables, such as
WANDB_MODE=offline, WANDB_PROJECT, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. A
tracker other than TensorBoard that fails is given up; training goes on.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from fof_jax import files

PROJECT = "fof-jax"  # of W&B and MLflow, unless their variables name another
METRICS = ("result/auc", "result/accuracy", "validation/loss", "train/total")
_IDS = "trackers.json"  # in a fold's folder: so that a resumed fold goes on in its run
_MOST_PARAMETERS = 100  # of one request to MLflow


@runtime_checkable
class Tracker(Protocol):
    """Receives what a fold logs."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values by name, after `step` steps."""

    def picture(self, name: str, pixels: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """A picture after `step` steps."""

    def close(self, *, finished: bool) -> None:
        """Ends tracking; `finished` is False after an error or a stop."""


class TensorBoard:
    """TensorBoard event file, written synchronously.

    tensorboardX's own SummaryWriter writes in a thread: on a full disk that ends, and
    training waits for it for ever.
    """

    def __init__(self, folder: Path, *, purge_step: int, fields: Mapping[str, Any]):
        """Opens a file; events of an older one after `purge_step` are hidden.

        Args:
          folder: of the event files.
          purge_step: steps already taken.
          fields: hyper-parameters by name; {} writes none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(purge_step, session_log=started)
        self._end: Any = None
        if fields:
            given = {k: _plain(v) for k, v in fields.items() if v is not None}
            experiment, start, self._end = summary.hparams(
                given, dict.fromkeys(METRICS, 0.0)
            )
            self._write(purge_step, summary=experiment)
            self._write(purge_step, summary=start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes an event for each value."""
        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))

    def picture(self, name: str, pixels: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Writes a picture."""
        self._write(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def close(self, *, finished: bool) -> None:
        """Closes the file."""
        if finished and self._end is not None:
            self._write(0, summary=self._end)
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **what)
        self._writer.write_event(event)


class WeightsAndBiases:
    """A run of Weights & Biases; offline with WANDB_MODE=offline."""

    def __init__(
        self,
        folder: Path,
        *,
        label: str,
        fields: Mapping[str, Any],
        ids: dict[str, str],
    ):
        """Starts a run, or goes on in that of `ids`."""
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=folder.parent.resolve().name,
            name=f"{folder.parent.resolve().name} {label}",
            id=ids.get("wandb"),
            resume="allow",
            dir=str(folder),
            config=dict(fields),
        )
        ids["wandb"] = str(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs the values."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, pixels: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Logs a picture."""
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self, *, finished: bool) -> None:
        """Ends the run."""
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(
        self,
        folder: Path,
        *,
        label: str,
        fields: Mapping[str, Any],
        ids: dict[str, str],
    ):
        """Starts a run, or goes on in that of `ids`."""
        mlflow = importlib.import_module("mlflow")
        self._client = mlflow.MlflowClient()
        if "mlflow" in ids:
            self._id = ids["mlflow"]
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = (
            known.experiment_id if known else self._client.create_experiment(name)
        )
        title = f"{folder.parent.resolve().name} {label}"
        run = self._client.create_run(experiment, run_name=title)
        self._id = ids["mlflow"] = run.info.run_id
        parameter = importlib.import_module("mlflow.entities").Param
        given = [parameter(k, str(_plain(v))) for k, v in fields.items()]
        for first in range(0, len(given), _MOST_PARAMETERS):
            part = given[first : first + _MOST_PARAMETERS]
            self._client.log_batch(self._id, params=part)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs the values."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def picture(self, name: str, pixels: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Logs a picture as an artifact."""
        path = f"pictures/{name.replace('/', '_')}_{step}.png"
        self._client.log_image(self._id, pixels, path)

    def close(self, *, finished: bool) -> None:
        """Ends the run."""
        status = "FINISHED" if finished else "KILLED"
        self._client.set_terminated(self._id, status)


# Name in config.trackers, which is that of the package and of the extra, too.
KINDS: Mapping[str, type[WeightsAndBiases] | type[MLflow]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Guarded:
    """A tracker that is given up at its first error."""

    def __init__(
        self, make: Callable[[], Tracker], name: str, log: Callable[[str], Any]
    ):
        """Makes the tracker; its failure is said, not raised."""
        self._tracker: Tracker | None = None
        self._name, self._log = name, log
        try:
            self._tracker = make()
        except Exception as error:
            self._give_up(error)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker`."""
        self._call("scalars", values, step)

    def picture(self, name: str, pixels: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """As `Tracker`."""
        self._call("picture", name, pixels, step)

    def close(self, *, finished: bool) -> None:
        """As `Tracker`."""
        self._call("close", finished=finished)

    def _call(self, method: str, *words: Any, **named: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*words, **named)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._log(f"warning: {self._name} is given up ({why}); training goes on")


def open_trackers(
    names: Sequence[str],
    folder: Path,
    *,
    label: str,
    first: int,
    fields: Mapping[str, Any],
    log: Callable[[str], Any],
) -> list[Tracker]:
    """TensorBoard, and the trackers of these names.

    Args:
      names: keys of `KINDS`.
      folder: of the fold.
      label: of the fold.
      first: steps already taken.
      fields: of the config, by flat name.
      log: prints a line.
    """
    opened: list[Tracker] = [
        TensorBoard(folder / "tensorboard", purge_step=first, fields=fields)
    ]
    path = folder / _IDS
    ids = json.loads(path.read_text("utf-8")) if names and path.exists() else {}
    for name in names:
        kind = KINDS[name]

        def make(kind=kind) -> Tracker:
            return kind(folder, label=label, fields=fields, ids=ids)

        opened.append(Guarded(make, name, log))
    if names:
        files.write_text(path, json.dumps(ids, indent=1) + "\n")
    return opened


def _plain(value: Any) -> str | bool | int | float:
    """A value of a config as one that trackers take."""
    return value if isinstance(value, str | bool | int | float) else str(value)
