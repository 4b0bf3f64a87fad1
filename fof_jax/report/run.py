"""Reads and checks the files of a workdir; does not use JAX."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from fof_jax.data.loader import steps_per_epoch
from fof_jax.evaluation import localization, metrics
from fof_jax.evaluation.predictions import Predictions, join, read_predictions
from fof_jax.training.run_fields import BEST_FILE


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One fold, finished or not.

    Attributes:
      number: from 0.
      predictions: on the test fold; None until the fold is finished.
      history: lines of metrics.jsonl.
      steps: total number of steps; None if splits.json is missing.
      best: content of best.json, which step is the model; None without validation.
    """

    number: int
    predictions: Predictions | None
    history: tuple[dict[str, float | int], ...]
    steps: int | None
    best: dict[str, Any] | None = None

    @property
    def state(self) -> str:
        """Progress as text."""
        if self.predictions is not None:
            if self.best is None:
                return "finished"
            early = ", stopped early" if self.best["stopped_early"] else ""
            return f"finished, model of epoch {self.best['epoch']:g}{early}"
        done = max((int(line["step"]) for line in self.history), default=0)
        if not done:
            return "not started"
        return f"at step {done}" + (f" of {self.steps}" if self.steps else "")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Content of a workdir.

    Attributes:
      workdir: the folder.
      config: resolved and nested.
      made_with: versions, commit, devices.
      table_hash: of the table of the training data.
      data_hash: of its images and table; None in runs of version 0.1.
      splits: splits.json, or None.
      folds: all folds, finished or not.
      predictions: of the finished folds; None without any.
      results: `metrics.summarize` of these; None without any.
      focus: localization metrics; None if the data have no masks.
      model_card: content of model_card.md, or "".
    """

    workdir: Path
    config: dict[str, Any]
    made_with: dict[str, Any]
    table_hash: str
    data_hash: str | None
    splits: dict[str, Any] | None
    folds: tuple[Fold, ...]
    predictions: Predictions | None
    results: dict[str, Any] | None
    focus: dict[str, Any] | None
    model_card: str

    @property
    def name(self) -> str:
        """Name in tables and legends."""
        return f"{self.config['data']['name']}, {self.config['method']}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in order."""
        return tuple(map(str, self.config["data"]["classes"]))

    @property
    def biomarkers(self) -> tuple[str, ...]:
        """Names of the N biomarkers, in order."""
        return tuple(map(str, self.config["data"]["biomarkers"]))

    @property
    def scheme(self) -> str:
        """Split unit of the folds."""
        return self.config["data"]["scheme"]

    @property
    def paper_row(self) -> str | None:
        """Row of the paper's Table I to compare with."""
        return self.config.get("paper_row")

    @property
    def finished(self) -> tuple[Fold, ...]:
        """Folds with predictions."""
        return tuple(fold for fold in self.folds if fold.predictions is not None)


def read_run(workdir: Path) -> Run:
    """Reads a workdir, also of an unfinished run.

    Raises:
      ValueError: not the folder of a run, or a file that cannot be used.
    """
    if not (workdir / "config.json").is_file():
        raise ValueError(
            f"{workdir} holds no config.json; expected the folder of a run. Pass "
            "the --workdir of its training."
        )
    document = _read_json(workdir / "config.json")
    try:
        config = document["config"]
        count, batch, epochs = (config[f] for f in ("folds", "batch_size", "epochs"))
        splits = None
        if (workdir / "splits.json").exists():
            splits = _read_json(workdir / "splits.json")
            count = len(splits["folds"])
        steps = [
            epochs * steps_per_epoch(fold["train"]["regions"], batch)
            for fold in (splits["folds"] if splits else ())
        ]
        fields, made_with = document["fields"], document["made_with"]
        table_hash, data_hash = fields["table_hash"], fields.get("data_hash")
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{workdir}: config.json or splits.json lacks {error}; expected files of "
            "this version. Run train again in a new workdir."
        ) from None
    folds = tuple(
        Fold(
            number=k,
            predictions=_read_predictions(workdir / f"fold_{k}" / "predictions.csv"),
            history=_read_history(workdir / f"fold_{k}" / "metrics.jsonl"),
            steps=steps[k] if steps else None,
            best=_read_best(workdir / f"fold_{k}" / BEST_FILE),
        )
        for k in range(count)
    )
    tables = [fold.predictions for fold in folds if fold.predictions is not None]
    predictions = join(tables) if tables else None
    card = workdir / "model_card.md"
    run = Run(
        workdir=workdir,
        config=config,
        made_with=made_with,
        table_hash=table_hash,
        data_hash=data_hash,
        splits=splits,
        folds=folds,
        predictions=predictions,
        results=metrics.summarize(predictions) if predictions is not None else None,
        focus=_read_focus(workdir, folds),
        model_card=card.read_text(encoding="utf-8") if card.exists() else "",
    )
    if predictions is not None and predictions.prob.shape[1] != len(run.classes):
        raise ValueError(
            f"{workdir}: predictions of {predictions.prob.shape[1]} classes, but "
            f"config.json names {len(run.classes)}; expected files of one run. "
            "Restore the run's predictions."
        )
    return run


def _read_focus(workdir: Path, folds: tuple[Fold, ...]) -> dict[str, Any] | None:
    """From results.json; before it is written, from the finished folds."""
    path = workdir / "results.json"
    if path.exists():
        return _read_json(path).get("focus")
    finished = [fold for fold in folds if fold.predictions is not None]
    files = [workdir / f"fold_{fold.number}" / "predictions.csv" for fold in finished]
    return localization.summarize(localization.read_next_to(files))


def _read_predictions(path: Path) -> Predictions | None:
    return read_predictions(path) if path.exists() else None


def _read_best(path: Path) -> dict[str, Any] | None:
    return _read_json(path) if path.exists() else None


def _read_history(path: Path) -> tuple[dict[str, float | int], ...]:
    """Lines of metrics.jsonl, without an incomplete last one."""
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = itertools.takewhile(lambda line: line.endswith("\n"), lines)
    try:
        return tuple(json.loads(line) for line in whole)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} has a line that is not JSON ({error}); expected one object a "
            "line. Remove that line."
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected JSON written by train. "
            "Restore a copy, or run train again in a new workdir."
        ) from None
