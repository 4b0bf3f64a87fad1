"""Reads and checks the config fields of the paper's method."""

from typing import Any

from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.paper import cam, model, views
from fof_jax.types import DatasetInfo

TARGETS = ("grade", "predicted")


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
      ValueError: a scale, fill or target that does not exist, a share outside [0, 1),
        or a warmup that is negative or longer than the training.
    """
    _check_choice("cam.scale", config.cam.scale, cam.SCALES)
    _check_choice("views.fill", config.views.fill, views.FILLS)
    _check_choice("cam.target", config.cam.target, TARGETS)
    # Configs of earlier runs have no fields but `fill`.
    share = config.views.get("keep_share", 0.0)
    epochs = config.views.get("warmup_epochs", 0.0)
    if not 0 <= share < 1:
        raise ValueError(
            f"views.keep_share: got {share}, expected a fraction of the patches in "
            "(0, 1), or 0 for theta. Pass another --config.views.keep_share."
        )
    if not 0 <= epochs <= config.epochs:
        raise ValueError(
            f"views.warmup_epochs: got {epochs}, expected 0 … {config.epochs}, the "
            "number of epochs. Pass another --config.views.warmup_epochs."
        )
    return {
        "scale": config.cam.scale,
        "fill": config.views.fill,
        "target": config.cam.target,
        "keep_share": share,
        "warmup": epochs / config.epochs,
        "stop_gradient": config.views.get("stop_gradient", False),
    }


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{field}: got {value!r}, expected one of {', '.join(choices)}. Pass "
            f"another --config.{field}."
        )
