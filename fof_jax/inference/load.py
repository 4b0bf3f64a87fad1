"""Loads a model from a run, a fold, a checkpoint step or an exported file."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fof_jax.inference import exported
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.predictor import Predictor
from fof_jax.training import build, weights
from fof_jax.training.workdir import MODEL_FILE
from fof_jax.types import Variables

_CONFIG = "config.json"


def load(path: str | Path) -> Predictor:
    """Loads a trained or an exported model.

    Args:
      path: as in `load_trained`, or a file of `export --to=stablehlo`.

    Raises:
      ValueError: as `load_trained` and `exported.load`.
    """
    path = Path(path)
    return exported.load(path) if path.is_file() else load_trained(path)


def load_trained(path: Path) -> TrainedModel:
    """Loads a model from a folder that training wrote.

    Args:
      path: a run (ensemble of its finished folds), a fold, also a copy of its folder
        elsewhere, or a step below its checkpoints.

    Raises:
      ValueError: none of these, no fold is finished, or a damaged checkpoint.
    """
    folds = _fold_paths(path)
    about = find_upward(folds[0], MODEL_FILE, _CONFIG)
    if about is None:
        raise ValueError(
            f"checkpoint: {folds[0]} has no {MODEL_FILE}. Expected the folder of a "
            "run, of a fold, or a step below its checkpoints."
        )
    metadata = json.loads(about.read_text(encoding="utf-8"))
    config = ConfigDict(metadata["config"])
    sides = metadata.get("sides")
    return TrainedModel(
        method=build.method_of(config),
        folds={
            str(fold): jax.tree.map(jnp.asarray, _variables(fold)) for fold in folds
        },
        config=config,
        sides=tuple(sides) if sides else None,
    )


def _variables(fold: Path) -> Variables:
    """Weights of a fold, with the statistics of omics that its model.json holds."""
    about = find_upward(fold, MODEL_FILE, _CONFIG)
    metadata = {} if about is None else json.loads(about.read_text(encoding="utf-8"))
    frozen = {}
    if "omics" in metadata:
        names = ("mean", "std", "median")
        frozen["omics"] = {n: np.float32(metadata["omics"][n]) for n in names}
    return dataclasses.replace(weights.read(fold), frozen=frozen)


def find_upward(place: Path, *names: str) -> Path | None:
    """First of some files of the run that a fold or a checkpoint step belongs to.

    Args:
      place: a run, a fold or a step.
      names: file names, in order of preference.

    Returns:
      The file, in `place` or one of the three folders above it; None if there is none.
    """
    folders = [place, *place.resolve().parents[:3]]
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _fold_paths(path: Path) -> list[Path]:
    """The finished folds of a run, or the given fold or step."""
    if not path.is_dir():
        raise ValueError(
            f"checkpoint: {path} does not exist. Expected the folder of a run or of "
            "one of its folds."
        )
    folds = sorted(
        (p for p in path.glob("fold_*") if p.name.removeprefix("fold_").isdigit()),
        key=lambda p: int(p.name.removeprefix("fold_")),
    )
    if not folds:
        return [path]
    finished = [p for p in folds if (p / "predictions.csv").exists()]
    if not finished:
        raise ValueError(
            f"checkpoint: no fold of {path} is finished. Let training end, or pass one "
            f"fold: {folds[0]}."
        )
    return finished
