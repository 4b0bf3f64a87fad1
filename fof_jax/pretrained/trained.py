"""A trained or imported model by its parts: encoder, its parameters, classifier."""

import dataclasses
import json
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax import program, vit, weights
from fof_jax.shapes import Params

_LEVELS = 4  # from a step of a fold up to its workdir


@dataclasses.dataclass(frozen=True)
class Model:
    """What is needed to use a model elsewhere.

    Attributes:
      encoder: with its image size.
      params: of the encoder.
      head: kernel and bias of the classifier; None for an encoder alone.
      classes: K names of the grades, in order.
      color: `data.color`.
    """

    encoder: vit.ViT
    params: Params
    head: Params | None
    classes: tuple[str, ...]
    color: bool


def read(folder: Path) -> Model:
    """Reads a fold of a run, a step of it, or an imported encoder.

    Raises:
      ValueError: it is none of these, its config.json is not there, or its method
        does not classify what its encoder pools.
    """
    given = weights.read(folder)
    about = weights.about(folder)
    if about.get("method") == "encoder":
        said = about["encoder"]
        size, patch = vit.variant(said["variant"])
        alone = vit.ViT(
            size=size,
            patch=patch,
            image_size=tuple(said["image_size"]),
            layer_norm_eps=said["layer_norm_eps"],
            class_token=said["class_token"],
        )
        return Model(alone, given.params["encoder"], None, (), True)
    if not {"encoder", "classifier"} <= set(given.params):
        raise ValueError(
            f"export: {folder} holds {', '.join(sorted(given.params))}, expected an "
            "encoder and a classifier on what it pools, as the methods 'fof' and 'vit' "
            "have."
        )
    config = _config(folder)
    return Model(
        encoder=program.encoder(config),
        params=given.params["encoder"],
        head=given.params["classifier"],
        classes=tuple(str(name) for name in config.data.classes),
        color=config.data.color,
    )


def _config(folder: Path) -> ConfigDict:
    """The configuration of the run that a folder is in."""
    for place in [folder.resolve(), *folder.resolve().parents][:_LEVELS]:
        path = place / "config.json"
        if path.exists():
            return ConfigDict(json.loads(path.read_text())["config"])
    raise ValueError(
        f"export: no config.json above {folder}, which says what the weights are of. "
        "Copy it from the run's folder."
    )
