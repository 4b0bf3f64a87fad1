"""Loads a model from a run, a fold, a checkpoint step or an exported file."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import training_data
from fof_jax.data.errors import SHOWN
from fof_jax.inference import exported, hub
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.predictor import Predictor
from fof_jax.training import build, weights
from fof_jax.training.run_fields import ABSENT_FIELDS, FREE_FIELDS
from fof_jax.training.workdir import (
    MODEL_FILE,
    SPLITS_FILE,
)
from fof_jax.types import Variables

_CONFIG = "config.json"


def load(path: str | Path) -> Predictor:
    """Loads a trained or an exported model.

    Args:
      path: as in `load_trained`, a file of `export --to=stablehlo`, or the address of
        one of them on the hub, hf:OWNER/NAME.

    Raises:
      ValueError: as `load_trained`, `exported.load` and `hub.local`.
    """
    path = hub.local(path)
    return exported.load(path) if path.is_file() else load_trained(path)


def load_trained(path: Path) -> TrainedModel:
    """Loads a model from a folder that training wrote.

    Args:
      path: a run (ensemble of its finished folds), a fold, also a copy of its folder
        elsewhere, or a step below its checkpoints.

    Raises:
      ValueError: none of these, no fold is finished, folds of different models, or a
        damaged checkpoint.
    """
    folds = _fold_paths(path)
    metadata, *others = [_metadata(fold) for fold in folds]
    for fold, other in zip(folds[1:], others, strict=True):
        _require_same_model(folds[0], metadata, fold, other)
    config = ConfigDict(metadata["config"])
    sides = metadata.get("sides")
    return TrainedModel(
        method=build.method_of(config),
        # `jnp.asarray` would be a program for each shape.
        folds={str(fold): jax.device_put(_variables(fold)) for fold in folds},
        config=config,
        sides=tuple(sides) if sides else None,
        training=training_data.union(
            training_data.from_json(one.get("training")) for one in [metadata, *others]
        ),
        omic_columns=tuple(metadata.get("omics", {}).get("names", ())),
        graphs=metadata.get("graphs", {}).get("origin"),
    )


def _metadata(fold: Path) -> dict[str, Any]:
    """Content of a fold's model.json; of config.json for runs before there was one."""
    about = find_upward(fold, MODEL_FILE, _CONFIG)
    if about is None:
        raise ValueError(
            f"checkpoint: {fold} has no {MODEL_FILE}. Expected the folder of a "
            "run, of a fold, or a step below its checkpoints."
        )
    try:
        metadata = json.loads(about.read_text(encoding="utf-8"))
        if isinstance(metadata["config"]["data"], dict):
            return metadata
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"checkpoint: {about} is not what training writes, or damaged. Bring back a "
        "copy, or train the fold again."
    )


def _require_same_model(
    first: Path, expected: dict[str, Any], fold: Path, actual: dict[str, Any]
) -> None:
    """Checks that the probabilities of two folds may be averaged.

    Raises:
      ValueError: the configs differ in a field that changes numbers, or the sizes of
        the training images do.
    """
    there, here = (
        ABSENT_FIELDS
        | build.flatten_fields(one["config"])
        | {"sides of the training images": one.get("sides")}
        | {"cell graphs": one.get("graphs", {}).get("origin")}
        for one in (expected, actual)
    )
    differ = [
        f"  {name}: {there.get(name)!r} in {first.name}, {here.get(name)!r} in "
        f"{fold.name}"
        for name in sorted({*there, *here})
        if name not in FREE_FIELDS and there.get(name) != here.get(name)
    ]
    if differ:
        raise ValueError(
            f"checkpoint: {first.name} and {fold.name} of {first.parent} are not folds "
            "of one model and cannot be averaged:\n" + "\n".join(differ[:SHOWN]) + "\n"
            "Move the folder that is of another run, or pass one fold."
        )


def _variables(fold: Path) -> Variables:
    """Weights of a fold, with the statistics that its model.json holds."""
    metadata = _metadata(fold)
    frozen = {}
    if "omics" in metadata:
        names = ("mean", "std", "median")
        frozen["omics"] = {n: np.float32(metadata["omics"][n]) for n in names}
    if "graphs" in metadata:
        columns = metadata["graphs"]
        frozen["columns"] = {n: np.float32(columns[n]) for n in ("mean", "std")}
    if "mean" in metadata.get("bags", {}):  # standardized
        bags = metadata["bags"]
        frozen["features"] = {n: np.float32(bags[n]) for n in ("mean", "std")}
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
    named = [(p, p.name.removeprefix("fold_")) for p in path.glob("fold_*")]
    numbers = {p: int(k) for p, k in named if k.isascii() and k.isdigit()}
    folds = sorted(numbers, key=lambda p: (numbers[p], p.name))
    if not folds:
        return [path]
    count = _fold_count(path)
    strange = [
        p.name for p in folds if p.name != f"fold_{numbers[p]}" or numbers[p] >= count
    ]
    if strange:
        raise ValueError(
            f"checkpoint: {', '.join(strange)} in {path} is not a fold of this run; "
            f"expected fold_0, fold_1, … as in its {SPLITS_FILE}. Move it elsewhere, "
            "or pass one fold."
        )
    finished = [p for p in folds if (p / "predictions.csv").exists()]
    if not finished:
        raise ValueError(
            f"checkpoint: no fold of {path} is finished. Let training end, or pass one "
            f"fold: {folds[0]}."
        )
    return finished


def _fold_count(run: Path) -> int | float:
    """Number of folds that splits.json lists; infinite without that file."""
    try:
        return len(json.loads((run / SPLITS_FILE).read_text(encoding="utf-8"))["folds"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf
