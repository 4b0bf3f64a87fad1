"""Ranges of the config's numbers, outside of which a run means nothing.

Fields of which a config has no section, and unset ones, are passed over.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fof_jax.training.run_fields import TRACKERS, VALIDATION_METRICS


def _interval(
    low: int, high: int | float, *, low_open: bool = False, high_open: bool = False
) -> Callable[[Any], bool]:
    def inside(value: Any) -> bool:
        above = low < value if low_open else low <= value
        below = value < high if high_open else value <= high
        return math.isfinite(value) and above and below

    return inside


_positive = _interval(0, math.inf, low_open=True), "a number above 0"
_not_negative = _interval(0, math.inf), "0 or more"
_fraction = _interval(0, 1), "0 to 1"
_below_one = _interval(0, 1, high_open=True), "0 or more, and less than 1"
_count = _interval(1, math.inf), "1 or more"

# Field by its name in the config -> rule. Sections are those of any method.
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "epochs",
            "batch_size",
            "folds",
            "save_every",
            "validation_every",
            "log_every",
            "steps_per_call",
            "unroll",
            "eval_batch_size",
            "cpu_devices",
            "data.image_size",
            "data.max_tokens",
            "data.threads",
            "data.regions",
            "omics.features",
            "fusion.image_features",
            "dgkd.features",
            "clat.superpixels",
            "pathgcn.bucket",
            "pathgcn.columns",
            "pathgcn.width",
            "pathgcn.features",
            "clat.masked_superpixels",
            "world_size_emulated",
        ),
        _count,
    ),
    **dict.fromkeys(
        (
            "seed",
            "early_stopping",
            "eval_every",
            "log_pictures",
            "save_minutes",
            "lambda_frl",
            "lambda_mca",
            "lambda_pos",
            "lambda_neg",
            "lambda_region",
            "lambda_dis_gene",
            "lambda_float_gene",
            "optimizer.weight_decay",
            "optimizer.warmup_epochs",
            "optimizer.constant_epochs",
            "optimizer.freeze_blocks",
            "optimizer.head_factor",
            "data.workers",
            "distill.alpha",
            "distill.beta",
            "distill.ramp_epochs",
            "dgkd.l1",
        ),
        _not_negative,
    ),
    **dict.fromkeys(
        (
            "tau",
            "layer_norm_eps",
            "data.patch_size",
            "optimizer.learning_rate",
            "optimizer.eps",
            "distill.temperature",
            "pathgcn.mpp",
        ),
        _positive,
    ),
    **dict.fromkeys(
        (
            "validation",
            "optimizer.beta1",
            "optimizer.beta2",
            "omics.dropout",
            "fusion.dropout",
            "fusion.modality_dropout",
            "dgkd.dropout",
            "pathgcn.dropout",
        ),
        _below_one,
    ),
    **dict.fromkeys(("theta", "ema_decay", "dgkd.decay"), _fraction),
    **dict.fromkeys(
        ("optimizer.layer_decay", "pathgcn.ratio"),
        (_interval(0, 1, low_open=True), "above 0, up to 1"),
    ),
}


def check_ranges(config: ConfigDict) -> None:
    """Checks the numbers of a config.

    Raises:
      ValueError: a number outside its range, infinite or not a number; phases of the
        learning rate that are longer than the run; early stopping without validation;
        an unknown validation metric; a tracker that cannot be used.
    """
    for name, (inside, expected) in _RANGES.items():
        value = _value(config, name.split("."))
        if value is not None and not inside(value):
            raise ValueError(
                f"{name}: got {value}, expected {expected}. Pass another "
                f"--config.{name}."
            )
    for name in ("warmup_epochs", "constant_epochs"):
        value = _value(config, ["optimizer", name])
        if value is not None and value > config.epochs:
            raise ValueError(
                f"optimizer.{name}: got {value} in a run of {config.epochs} epochs, "
                "whose learning rate would never be reached or never fall. Lower "
                f"--config.optimizer.{name}, or raise --config.epochs."
            )

    tracker_names(config)
    if config.get("steps_per_call", 1) > 1 and config.data.cache != "device":
        raise ValueError(
            f"steps_per_call: got {config.steps_per_call} with data.cache="
            f"{config.data.cache!r}; several steps in one call need the images in "
            "device memory. Pass --config.data.cache=device, or "
            "--config.steps_per_call=1."
        )
    metric = config.get("validation_metric", "loss")
    if metric not in VALIDATION_METRICS:
        raise ValueError(
            f"validation_metric: got {metric!r}, expected one of "
            f"{', '.join(VALIDATION_METRICS)}. Pass another --config.validation_metric."
        )
    if config.get("early_stopping", 0) and not config.get("validation", 0.0):
        raise ValueError(
            f"early_stopping: got {config.early_stopping} without validation rows. "
            "Pass --config.validation=0.1, or --config.early_stopping=0."
        )


def tracker_names(config: ConfigDict) -> list[str]:
    """Names of trackers in `config.trackers`, separated by commas.

    Raises:
      ValueError: one does not exist, or its package is not installed.
    """
    text = config.get("trackers", None) or ""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"trackers: got {name!r}, expected {', '.join(TRACKERS)}, separated by "
                "commas, or nothing for TensorBoard alone. Pass another "
                "--config.trackers."
            )
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trackers: {name} is not installed: pip install -e '.[{name}]'."
            )
    return names


def _value(config: ConfigDict, path: Sequence[str]) -> Any:
    node: Any = config
    for name in path:
        if node is None or name not in node:
            return None
        node = node[name]
    return node
