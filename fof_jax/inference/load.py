"""A trained model from the folder of a run or a fold, or from an exported file."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fof_jax.inference.model import Model
from fof_jax.training import build, weights
from fof_jax.training.workdir import MODEL_FILE


def load(path: str | Path) -> Model:
    """A trained model from what training has left.

    Args:
      path: a run's folder (all its finished folds), a fold's folder, or a step below
        its checkpoints. A fold's folder may have been copied elsewhere alone. Or a
        file of `export --to=stablehlo`.

    Raises:
      ValueError: it is none of these, its folds are of different models, or a
        checkpoint is damaged.
    """
    path = Path(path)
    if path.is_file():
        from fof_jax.inference import exported

        return exported.load(path)
    places = _places(path)
    about = _about(places[0])
    config = ConfigDict(about["config"])
    sides = about.get("sides")
    return Model(
        method=build.method_of(config),
        folds={
            str(place): jax.tree.map(jnp.asarray, weights.read(place))
            for place in places
        },
        config=config,
        sides=tuple(sides) if sides else None,
    )


def _places(path: Path) -> list[Path]:
    """The folds of a run that have been tested, or the one place that was named."""
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
            f"checkpoint: no fold of {path} is finished. Let training end, or name one "
            f"fold: {folds[0]}."
        )
    return finished


def _about(place: Path) -> dict[str, Any]:
    here = [place, *place.resolve().parents[:3]]
    for folder in here:
        if (folder / MODEL_FILE).exists():
            return json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    for folder in here:  # runs of before, whose folds did not carry it
        if (folder / "config.json").exists():
            text = (folder / "config.json").read_text(encoding="utf-8")
            return {"config": json.loads(text)["config"]}
    raise ValueError(
        f"checkpoint: {place} has no {MODEL_FILE}. Expected the folder of a run, of a "
        "fold, or a step below its checkpoints."
    )
