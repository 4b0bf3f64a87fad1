"""What a workdir holds, read once and checked; nothing is computed on a device."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from fof_jax.data.loader import steps_per_epoch
from fof_jax.evaluation import localization, metrics
from fof_jax.evaluation.predictions import Predictions, join, read_predictions


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One fold as far as it has come.

    Attributes:
      number: from 0.
      tested: its predictions; None until it is finished.
      history: the lines of its metrics.jsonl.
      steps: it takes in all; None where splits.json is missing.
    """

    number: int
    tested: Predictions | None
    history: tuple[dict[str, float | int], ...]
    steps: int | None

    @property
    def state(self) -> str:
        """In words."""
        if self.tested is not None:
            return "finished"
        done = max((int(line["step"]) for line in self.history), default=0)
        if not done:
            return "not begun"
        return f"at step {done}" + (f" of {self.steps}" if self.steps else "")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run.

    Attributes:
      workdir: its folder.
      config: the resolved configuration, nested.
      made_with: versions, commit, devices.
      table_hash: of the data that it trains on.
      splits: splits.json, or None.
      folds: all of them, finished or not.
      joined: predictions of the finished folds; None without one.
      results: `metrics.summarize` of these; None without one.
      focus: return value of `localization.summarize`; None if the data have no masks.
      model_card: text of model_card.md, or "".
    """

    workdir: Path
    config: dict[str, Any]
    made_with: dict[str, Any]
    table_hash: str
    splits: dict[str, Any] | None
    folds: tuple[Fold, ...]
    joined: Predictions | None
    results: dict[str, Any] | None
    focus: dict[str, Any] | None
    model_card: str

    @property
    def name(self) -> str:
        """What tables and legends call it."""
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
        """How the folds were split."""
        return self.config["data"]["scheme"]

    @property
    def paper_row(self) -> str | None:
        """Row of the paper's Table I that it stands beside."""
        return self.config.get("paper_row")

    @property
    def finished(self) -> tuple[Fold, ...]:
        """Folds that have predictions."""
        return tuple(fold for fold in self.folds if fold.tested is not None)


def read_run(workdir: Path) -> Run:
    """Reads a workdir, whatever part of it is there yet.

    Raises:
      ValueError: it is no run's folder, or a file in it cannot be used.
    """
    if not (workdir / "config.json").is_file():
        raise ValueError(
            f"{workdir} holds no config.json; expected the folder of a run. Pass "
            "--workdir=runs/…, as it was given to train."
        )
    known = _json(workdir / "config.json")
    try:
        config = known["config"]
        number, batch, epochs = (config[f] for f in ("folds", "batch_size", "epochs"))
        splits = None
        if (workdir / "splits.json").exists():
            splits = _json(workdir / "splits.json")
            number = len(splits["folds"])
        steps = [
            epochs * steps_per_epoch(fold["train"]["regions"], batch)
            for fold in (splits["folds"] if splits else ())
        ]
        hash_of_table, made_with = known["fields"]["table_hash"], known["made_with"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{workdir}: config.json or splits.json lacks {error}; expected files of "
            "this version. Run train again in a new workdir."
        ) from None
    folds = tuple(
        Fold(
            number=k,
            tested=_predictions(workdir / f"fold_{k}" / "predictions.csv"),
            history=_history(workdir / f"fold_{k}" / "metrics.jsonl"),
            steps=steps[k] if steps else None,
        )
        for k in range(number)
    )
    tables = [fold.tested for fold in folds if fold.tested is not None]
    joined = join(tables) if tables else None
    card = workdir / "model_card.md"
    run = Run(
        workdir=workdir,
        config=config,
        made_with=made_with,
        table_hash=hash_of_table,
        splits=splits,
        folds=folds,
        joined=joined,
        results=metrics.summarize(joined) if joined is not None else None,
        focus=_focus(workdir, folds),
        model_card=card.read_text(encoding="utf-8") if card.exists() else "",
    )
    if joined is not None and joined.prob.shape[1] != len(run.classes):
        raise ValueError(
            f"{workdir}: predictions of {joined.prob.shape[1]} classes, config.json "
            f"names {len(run.classes)}; expected files of one run. Put the run's own "
            "predictions back."
        )
    return run


def _focus(workdir: Path, folds: tuple[Fold, ...]) -> dict[str, Any] | None:
    """Of results.json; until that is written, of the finished folds' own files."""
    stored = workdir / "results.json"
    if stored.exists():
        return _json(stored).get("focus")
    finished = [fold for fold in folds if fold.tested is not None]
    files = [workdir / f"fold_{fold.number}" / "predictions.csv" for fold in finished]
    return localization.summarize(localization.read_next_to(files))


def _predictions(path: Path) -> Predictions | None:
    return read_predictions(path) if path.exists() else None


def _history(path: Path) -> tuple[dict[str, float | int], ...]:
    """The lines of a metrics.jsonl; one that is being written is left out."""
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


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected JSON that train has written. "
            "Put it back from a copy, or run train again in a new workdir."
        ) from None
