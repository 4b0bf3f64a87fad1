"""Encoder and classifier of a trained or imported model, for export."""

import dataclasses
from pathlib import Path

import numpy as np

from fof_jax.inference import load
from fof_jax.inference.model import reads_bags
from fof_jax.models import image_encoders, vit
from fof_jax.models.pretrained import position_embedding
from fof_jax.training import weights
from fof_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Components:
    """Encoder and classifier of one model.

    Attributes:
      encoder: with its image size.
      params: of the encoder.
      head: kernel and bias of the classifier; None for an encoder without one.
      classes: names of the K classes, in order.
      color: `data.color`.
      stain: `data.stain`.
    """

    encoder: vit.ViT
    params: Params
    head: Params | None
    classes: tuple[str, ...]
    color: bool
    stain: str = "none"


def read(folder: Path) -> Components:
    """Reads a fold of a run, a step of it, or an imported encoder.

    Raises:
      ValueError: none of these, a run of several folds, a model of bags, or a method
        without a classifier on the encoder's pooled output.
    """
    if weights.about(folder).get("method") == "encoder":
        return Components(*imported(folder), head=None, classes=(), color=True)
    model = load.load_trained(folder)
    if len(model.folds) > 1:
        raise ValueError(
            f"export: {folder} is a run of {len(model.folds)} folds, each a model. "
            f"Pass one of them: {model.fold_names[0]}."
        )
    if reads_bags(model):
        raise ValueError(
            f"export: method {model.config.method!r} of {folder} reads patch features, "
            "and other libraries' models take images. Use predict with the run's "
            "folder."
        )
    (variables,) = model.folds.values()
    if not {"encoder", "classifier"} <= set(variables.params):
        raise ValueError(
            f"export: {folder} holds {', '.join(sorted(variables.params))}, expected "
            "an encoder and a classifier of its pooled output, as the methods 'fof' "
            "and 'vit' have."
        )
    _require_vit(folder, model.config.encoder)
    return Components(
        encoder=model.method.network.encoder,  # type: ignore[attr-defined]
        params=variables.params["encoder"],
        head=variables.params["classifier"],
        classes=model.classes,
        color=model.config.data.color,
        stain=model.config.data.stain,
    )


def _require_vit(folder: Path, name: str) -> None:
    if image_encoders.is_known(name):
        raise ValueError(
            f"export: {folder} has the encoder {name}, expected a ViT, the only one "
            "that other libraries' formats are written for. Pass --to=stablehlo."
        )


def imported(
    folder: Path, *, image_size: tuple[int, int] | None = None
) -> tuple[vit.ViT, Params]:
    """Reads an imported encoder, with its class token, and its parameters.

    Args:
      folder: written by `import`.
      image_size: H, W; the position embedding is resized (bicubic). None uses the
        size that the encoder was trained at.

    Raises:
      ValueError: not a folder that `import` wrote, or a side is not a multiple of the
        patch size.
    """
    about = weights.about(folder)
    if about.get("method") != "encoder":
        raise ValueError(
            f"checkpoint: {folder} is not an imported encoder. Pass a folder that "
            "`import` wrote."
        )
    described = about["encoder"]
    _require_vit(folder, described["variant"])
    size, patch = vit.parse_variant(described["variant"])
    encoder = vit.ViT(
        size=size,
        patch=patch,
        image_size=image_size or tuple(described["image_size"]),
        layer_norm_eps=described["layer_norm_eps"],
        class_token=described["class_token"],
    )
    params = weights.read(folder).params["encoder"]
    table = position_embedding.resize(
        np.asarray(params["position"]),
        grid=tuple(described["grid"]),
        to=encoder.grid,
        method="bicubic",
    )
    return encoder, {**params, "position": table}
