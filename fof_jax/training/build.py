"""Builds from a config what all folds of a run share: method, optimizer, steps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from fof_jax.data.augment import options as augment_options
from fof_jax.data.augment import pipeline
from fof_jax.methods import encoder, registry
from fof_jax.methods.base import Method
from fof_jax.training import optimizer, option_ranges, parallel
from fof_jax.training.state import Step
from fof_jax.types import Batch, DatasetInfo, Variables

# Streams of the run's random key; the order is part of a run's identity.
INIT, AUGMENT, STEP = range(3)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all folds of a run share.

    Attributes:
      method: the config's.
      optimizer: of its parameters, without the learning rate.
      devices: devices in use.
      train_step: one optimizer step, see `parallel.train_step`.
      train_steps: several of them in one call, see `parallel.train_steps`.
      predict_step: logits of a batch, see `parallel.predict_step`.
      augment: uint8 batch to augmented batch; part of `train_step`.
      step_key: random key of the steps; part of `train_step`.
      key: random key of the run.
    """

    method: Method
    optimizer: optax.GradientTransformation
    devices: Sequence[jax.Device]
    train_step: Step
    train_steps: Step
    predict_step: Callable[[Variables, Batch], jax.Array]
    augment: Callable[[Batch], Batch]
    step_key: jax.Array
    key: jax.Array


def validate(config: ConfigDict) -> None:
    """Validates the config fields that do not depend on data.

    Raises:
      ValueError: encoder, image size, dtype or method do not exist or do not fit; a
        number outside its range.
    """
    encoder.validate(config)
    option_ranges.check_ranges(config)
    registry.find(config.method)
    optimizer.from_config(config)
    optimizer.learning_rate(config, 0, steps_per_epoch=1)


def build(config: ConfigDict, info: DatasetInfo) -> Setup:
    """Method, optimizer and steps; nothing compiles before the first batch.

    Args:
      config: of the run.
      info: names and values of its data.

    Raises:
      ValueError: the config does not fit the data or the devices.
    """
    key = jax.random.key(config.seed)
    method = registry.create(config, info)
    devices = parallel.choose_devices(config.batch_size, config.devices)
    optim = optimizer.from_config(config, getattr(method, "untrained", ()))
    augment = functools.partial(
        pipeline.augment,
        seed_key=jax.random.fold_in(key, AUGMENT),
        spec=augment_options.Augmentation(**config.augment.to_dict()),
        color=config.data.color,
        second_view=method.inputs.second_view,
    )
    normalize = functools.partial(pipeline.normalize, color=config.data.color)
    step_key = jax.random.fold_in(key, STEP)
    return Setup(
        method=method,
        optimizer=optim,
        devices=devices,
        train_step=parallel.train_step(method, optim, augment, step_key, devices),
        train_steps=parallel.train_steps(method, optim, augment, step_key, devices),
        predict_step=parallel.predict_step(method, normalize, devices),
        augment=augment,
        step_key=step_key,
        key=key,
    )


def method_of(config: ConfigDict) -> Method:
    """The method of a trained run, rebuilt without its data."""
    return registry.create(config, config_info(config))


def config_info(config: ConfigDict) -> DatasetInfo:
    """Names of the data as the config of a run states them."""
    return DatasetInfo(
        classes=tuple(map(str, config.data.classes)),
        biomarkers=tuple(map(str, config.data.biomarkers)),
        float_markers=tuple(map(str, config.data.float_markers)),
    )


def flatten_fields(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by flat name, as config.json identifies a run: cam_block."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flatten_fields(value, f"{prefix}{name}_")
        else:
            out[prefix + name] = value
    return out
