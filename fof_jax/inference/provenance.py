"""about.json of an output folder: which model computed it, of what, and when."""

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fof_jax
from fof_jax import files
from fof_jax.inference.exported import ExportedModel
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.names import printable
from fof_jax.inference.outputs import ABOUT_FILE, USE
from fof_jax.inference.predictor import Predictor


def write(folder: Path, about: Mapping[str, Any], **more: Any) -> None:
    """Writes about.json into an output folder.

    Args:
      folder: of the output.
      about: of `describe`.
      more: further JSON values, such as the number of images.
    """
    text = json.dumps({**about, **more}, indent=1, ensure_ascii=False)
    files.write_text(folder / ABOUT_FILE, text + "\n")


def describe(
    model: Predictor, *, command: str, checkpoint: Path, **more: Any
) -> dict[str, Any]:
    """Content of about.json: model, classes, scale, version, date and use.

    Args:
      model: that computes the output.
      command: that was run.
      checkpoint: as the user named it.
      more: further JSON values, such as the scale of slides.
    """
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {
        "use": USE,
        "command": command,
        "date": now,
        "version": fof_jax.__version__,
        "checkpoint": printable(str(checkpoint)),
        "checkpoint_sha256": model_hash(model),
        "folds": [Path(name).name for name in model.fold_names],
        "method": model.config.method,
        "classes": list(model.classes),
        "scale": {
            "image_size": model.image_size,
            "sides_of_training_images": list(model.sides) if model.sides else None,
            "test_view": model.config.data.test_view,
        },
        "stain": model.config.data.stain,
        "trained_on": model.config.data.name,
        **more,
    }


def identity(
    model: Predictor, job: Mapping[str, str] | None, **command: str
) -> dict[str, str]:
    """What a resumed job must have in common with its beginning, besides images.

    Args:
      model: that computes the output.
      job: further options of the command.
      command: its verb and what determines its files.
    """
    read = {n: model.config.data[n] for n in ("small", "stain", "test_view", "color")}
    return {
        **command,
        "model": model_hash(model),
        "folds": ", ".join(Path(name).name for name in model.fold_names),
        "preprocessing": f"{read}, training images of {model.sides} pixels",
        **(job or {}),
    }


def model_hash(model: Predictor) -> str:
    """SHA-256 of a model's weights, fold by fold, or of an exported program.

    Two models of one name differ in it; a copy elsewhere does not.
    """
    digest = hashlib.sha256()
    if isinstance(model, TrainedModel):
        for variables in model.folds.values():
            leaves: Mapping = dict(jax.tree_util.tree_leaves_with_path(variables))
            for path, leaf in leaves.items():
                array = np.asarray(leaf)
                digest.update(f"{jax.tree_util.keystr(path)}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(model, ExportedModel):
        digest.update(json.dumps(model.about, sort_keys=True).encode())
        digest.update(model.program_sha256.encode())
    return digest.hexdigest()
