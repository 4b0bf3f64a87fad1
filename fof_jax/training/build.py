"""What all folds of a run share, built from its configuration."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from fof_jax.data import store
from fof_jax.data.augment import options as augment_options
from fof_jax.data.augment import pipeline
from fof_jax.methods import base, registry
from fof_jax.models import vit
from fof_jax.training import optimizer, parallel, state
from fof_jax.types import Batch, Variables

# Streams of the run's key; the order is part of a run's identity.
INIT, AUGMENT, STEP = range(3)
POSITIVE = (
    "epochs",
    "batch_size",
    "folds",
    "save_every",
    "log_every",
    "eval_batch_size",
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What all folds share: the method and its compiled steps.

    Attributes:
      method: from the table in `method.py`.
      adamw: the optimizer.
      devices: the local devices in use.
      train: one optimizer step, see `parallel.train_step`.
      predict: logits of a batch, see `parallel.predict_step`.
      draw: uint8 batch to augmented batch; it is in `train`.
      step_key: of what the method draws; it is in `train`.
      key: of the run.
    """

    method: base.Method
    adamw: optax.GradientTransformation
    devices: Sequence[jax.Device]
    train: state.Step
    predict: Callable[[Variables, Batch], jax.Array]
    draw: Callable[[Batch], Batch]
    step_key: jax.Array
    key: jax.Array


def check(config: ConfigDict) -> None:
    """Refuses what no data can mend, before anything is drawn, read or compiled.

    Raises:
      ValueError: encoder, image size, dtype or method do not exist or fit; a count
        that has to be positive is not.
    """
    _, patch = vit.parse_variant(config.encoder)
    vit.grid((config.data.image_size,) * 2, patch)
    compute_dtype(config.compute_dtype, jax.default_backend())
    for field in POSITIVE:
        if config[field] < 1:
            raise ValueError(
                f"{field}: got {config[field]}, expected 1 or more. Pass another "
                f"--config.{field}."
            )
    if not 0 <= config.save_minutes < math.inf:
        raise ValueError(
            f"save_minutes: got {config.save_minutes}, expected minutes, or 0 for "
            "none. Pass another --config.save_minutes."
        )
    registry.find(config.method)


def build_method(config: ConfigDict, data: store.Store) -> base.Method:
    """The method that a config names, for the classes and markers of a store."""
    available = flat(config.to_dict()) | {
        "encoder": encoder(config),
        "num_classes": len(data.classes),
        "num_biomarkers": len(data.biomarkers),
        "num_floats": len(data.float_markers),
        "biomarker_table": data.biomarker_values,
    }
    return registry.create(config.method, available)


def encoder(config: ConfigDict) -> vit.ViT:
    """The encoder that a config describes."""
    size, patch = vit.parse_variant(config.encoder)
    side = config.data.image_size
    return vit.ViT(
        size=size,
        patch=patch,
        image_size=(side, side),
        layer_norm_eps=config.layer_norm_eps,
        compute_dtype=compute_dtype(config.compute_dtype, jax.default_backend()),
        implementation=config.attention,
        remat=config.remat,
        class_token=config.init.class_token == "keep",
        pooling=config.pooling,
        frozen_blocks=config.optimizer.freeze_blocks,
    )


def build_program(config: ConfigDict, data: store.Store) -> Program:
    """Method, optimizer and steps; nothing compiles before the first batch."""
    key = jax.random.key(config.seed)
    made = build_method(config, data)
    spec = augment_options.Augmentation(**config.augment.to_dict())
    devices = parallel.choose_devices(config.batch_size, config.devices)
    options = config.optimizer
    adamw = optax.chain(
        optimizer.adamw(
            beta1=options.beta1,
            beta2=options.beta2,
            eps=options.eps,
            weight_decay=options.weight_decay,
        ),
        optimizer.by_layer(
            layer_decay=options.layer_decay,
            freeze_blocks=options.freeze_blocks,
            head_factor=options.head_factor,
        ),
    )
    draw = functools.partial(
        pipeline.augment,
        seed_key=jax.random.fold_in(key, AUGMENT),
        spec=spec,
        color=config.data.color,
        colour_views=made.colour_views,
    )
    plain = functools.partial(pipeline.normalise, color=config.data.color)
    step_key = jax.random.fold_in(key, STEP)
    return Program(
        method=made,
        adamw=adamw,
        devices=devices,
        train=parallel.train_step(made, adamw, draw, step_key, devices),
        predict=parallel.predict_step(made, plain, devices),
        draw=draw,
        step_key=step_key,
        key=key,
    )


def compute_dtype(name: str, platform: str) -> Any:
    """The dtype of activations by its name in the config.

    Raises:
      ValueError: the name is none of float32, bfloat16 and auto.
    """
    names = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name == "auto":
        return jnp.float32 if platform == "cpu" else jnp.bfloat16
    if name not in names:
        raise ValueError(
            f"compute_dtype: {name!r} is not known. Expected float32, bfloat16 or auto."
        )
    return names[name]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by flat name: cam.block is cam_block."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}_")
        else:
            out[prefix + name] = value
    return out


def method_of(config: ConfigDict) -> base.Method:
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
