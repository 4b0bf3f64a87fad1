"""Reads and checks the config fields of the paper's method."""

from typing import Any

from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.paper import cam, model, views
from fof_jax.types import DatasetInfo

TARGETS = ("grade", "predicted")
# Fields below `views` that earlier versions had, with the values that changed nothing.
REMOVED = {"keep_share": 0.0, "stop_gradient": False}


def network(config: ConfigDict, info: DatasetInfo) -> model.Model:
    """f, g and h^n of a config."""
    return model.Model(
        encoder=encoder.build_vit(config),
        num_classes=len(info.classes),
        num_biomarkers=len(info.biomarkers),
        cam_block=config.cam.block,
        mask_token=config.frl and config.views.fill == "token",
    )


def view_options(config: ConfigDict) -> dict[str, Any]:
    """Fields of `FocusOnFocus` about the views.

    Raises:
      ValueError: a scale, fill or target that does not exist, a warmup that is
        negative or longer than the training, or a run of a removed field.
    """
    _check_choice("cam.scale", config.cam.scale, cam.SCALES)
    _check_choice("views.fill", config.views.fill, views.FILLS)
    _check_choice("cam.target", config.cam.target, TARGETS)
    for name, neutral in REMOVED.items():
        value = config.views.get(name, neutral)
        if value != neutral:
            raise ValueError(
                f"views.{name}: got {value}, and this version has no such field. Use "
                "the version that the run was trained with."
            )
    epochs = config.views.get("warmup_epochs", 0.0)  # earlier runs have no such field
    if not 0 <= epochs <= config.epochs:
        raise ValueError(
            f"views.warmup_epochs: got {epochs}, expected 0 … {config.epochs}, the "
            "number of epochs. Pass another --config.views.warmup_epochs."
        )
    return {
        "scale": config.cam.scale,
        "fill": config.views.fill,
        "target": config.cam.target,
        "warmup": epochs / config.epochs,
    }


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{field}: got {value!r}, expected one of {', '.join(choices)}. Pass "
            f"another --config.{field}."
        )
