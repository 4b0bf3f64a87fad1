"""A trained model from the folder of a run or a fold, or from an exported file."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fof_jax import weights
from fof_jax.data import atomic, store
from fof_jax.method import Method
from fof_jax.program import build_method
from fof_jax.trained import Model

ABOUT = "model.json"  # in a fold's folder: what reading its weights needs


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
        from fof_jax import exported

        return exported.load(path)
    places = _places(path)
    about = _about(places[0])
    config = ConfigDict(about["config"])
    sides = about.get("sides")
    return Model(
        method=method_of(config),
        folds={
            str(place): jax.tree.map(jnp.asarray, weights.read(place))
            for place in places
        },
        config=config,
        sides=tuple(sides) if sides else None,
    )


def method_of(config: ConfigDict) -> Method:
    """The method of a run, without its data."""
    bare = store.without_images(
        classes=config.data.classes,
        biomarkers=config.data.biomarkers,
        float_markers=config.data.float_markers,
    )
    try:
        return build_method(config, bare)
    except AttributeError as lacking:  # ml_collections' word for a missing field
        raise ValueError(
            f"checkpoint: its configuration has no field {lacking}; it was made by an "
            "earlier version of this program. Load it with that version, or train "
            "again."
        ) from None


def describe(folder: Path, config: ConfigDict, data: store.Store) -> None:
    """Writes into a fold's folder what reading it wants, so that it can travel alone.

    Args:
      folder: of the fold.
      config: of the run.
      data: what it is trained on.
    """
    about = {
        "config": config.to_dict(),
        "sides": [int(data.sizes.min()), int(data.sizes.max())],
    }
    atomic.write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


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
        if (folder / ABOUT).exists():
            return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for folder in here:  # runs of before, whose folds did not carry it
        if (folder / "config.json").exists():
            text = (folder / "config.json").read_text(encoding="utf-8")
            return {"config": json.loads(text)["config"]}
    raise ValueError(
        f"checkpoint: {place} has no {ABOUT}. Expected the folder of a run, of a fold, "
        "or a step below its checkpoints."
    )
