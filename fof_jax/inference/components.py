"""A trained or imported model by its parts, for other programs."""

import dataclasses
from pathlib import Path

import numpy as np

from fof_jax.inference import load
from fof_jax.models import vit
from fof_jax.models.pretrained import position_embedding
from fof_jax.training import weights
from fof_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Parts:
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


def read(folder: Path) -> Parts:
    """Reads a fold of a run, a step of it, or an imported encoder.

    Raises:
      ValueError: it is none of these, or several folds, or its method does not
        classify what its encoder pools.
    """
    if weights.about(folder).get("method") == "encoder":
        return Parts(*imported(folder), head=None, classes=(), color=True)
    model = load.load(folder)
    if len(model.folds) > 1:
        raise ValueError(
            f"export: {folder} is a run of {len(model.folds)} folds, each a model. "
            f"Name one: {next(iter(model.folds))}."
        )
    (variables,) = model.folds.values()
    if not {"encoder", "classifier"} <= set(variables.params):
        raise ValueError(
            f"export: {folder} holds {', '.join(sorted(variables.params))}, expected "
            "an encoder and a classifier on what it pools, as the methods 'fof' and "
            "'vit' have."
        )
    return Parts(
        encoder=model.method.network.encoder,  # type: ignore[attr-defined]
        params=variables.params["encoder"],
        head=variables.params["classifier"],
        classes=tuple(str(name) for name in model.classes),
        color=model.config.data.color,
    )


def imported(
    folder: Path, *, image_size: tuple[int, int] | None = None
) -> tuple[vit.ViT, Params]:
    """An encoder that `import` made, its class token kept, and its parameters.

    Args:
      folder: what `import` made.
      image_size: H, W; the position embedding is resized (bicubic). None takes the
        size that the encoder was trained at.

    Raises:
      ValueError: a side is no multiple of the patch, or `import` has not made it.
    """
    about = weights.about(folder)
    if about.get("method") != "encoder":
        raise ValueError(
            f"checkpoint: {folder} is no imported encoder. Pass what `import` has made."
        )
    said = about["encoder"]
    size, patch = vit.parse_variant(said["variant"])
    encoder = vit.ViT(
        size=size,
        patch=patch,
        image_size=image_size or tuple(said["image_size"]),
        layer_norm_eps=said["layer_norm_eps"],
        class_token=said["class_token"],
    )
    params = weights.read(folder).params["encoder"]
    table = position_embedding.resize(
        np.asarray(params["position"]),
        grid=tuple(said["grid"]),
        to=encoder.grid,
        method="bicubic",
    )
    return encoder, {**params, "position": table}
