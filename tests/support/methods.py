"""Methods with small encoders, and the context of their losses."""

import dataclasses
from typing import Any

import jax

from fof_jax.configs import gbmlgg, gbmlgg_release
from fof_jax.methods import registry
from fof_jax.types import DatasetInfo, StepContext

CTX = StepContext(key=jax.random.key(1))


def settings(name, **fields):
    """The config of a method, with fields set by flat name: cam_block."""
    release = name == "release"
    config = gbmlgg_release.get_config() if release else gbmlgg.get_config()
    config.method = name
    config.encoder, config.data.image_size = "mu/16", 32
    for field, value in fields.items():
        holder, key = config, field
        while key not in holder:
            section = next(s for s in holder if key.startswith(f"{s}_"))
            holder, key = holder[section], key.removeprefix(f"{section}_")
        with holder.ignore_type():
            holder[key] = value
    return config


def make(
    name,
    encoder=None,
    *,
    classes=3,
    biomarkers=2,
    floats=0,
    values=None,
    **fields: Any,
):
    """A method by its name, on another encoder than the config's if one is given."""
    info = DatasetInfo(
        classes=tuple(f"class {k}" for k in range(classes)),
        biomarkers=tuple(f"marker {n}" for n in range(biomarkers)),
        float_markers=tuple(f"float {n}" for n in range(floats)),
        biomarker_values=values,
    )
    method = registry.create(settings(name, **fields), info)
    if encoder is None:
        return method
    return dataclasses.replace(method, network=method.network.clone(encoder=encoder))
