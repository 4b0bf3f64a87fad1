"""PyTorch names and layouts of recorded arrays, and their places in Flax variables."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.models.pretrained.torch_layers import CONSTANTS as CONSTANTS
from fof_jax.models.pretrained.torch_layers import Layers as Layers
from fof_jax.models.pretrained.torch_layers import Path as Path
from fof_jax.models.pretrained.torch_layers import from_flax as from_flax
from fof_jax.models.pretrained.torch_layers import place as place
from fof_jax.models.pretrained.torch_layers import to_flax as to_flax

Recording = Mapping[str, np.ndarray]


def under(recording: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Entries below a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in recording.items()
        if key.startswith(prefix)
    }


def config(recording: Recording, case: str) -> dict[str, Any]:
    """The constants of a case as Python values."""
    return {
        name: value.tolist() for name, value in under(recording, f"{case}/cfg/").items()
    }


def parameters(recording: Recording, case: str) -> dict[str, np.ndarray]:
    """Parameters of a case by PyTorch name, stored or given by a rule.

    Source: methods/fusion.md "Parameters by rule".
    """
    rule = recording.get(f"{case}/rule")
    if rule is None:
        return under(recording, f"{case}/param/")
    return {
        name: by_rule(k, bound, offset, tuple(shape))
        for name, k, bound, offset, shape in json.loads(str(rule))
    }


def by_rule(k: int, bound: float, offset: float, shape: tuple[int, ...]) -> np.ndarray:
    """Hashed numbers offset + bound (2 u - 1), u in [0, 1), row-major float32."""
    x = np.arange(np.prod(shape), dtype=np.uint32)
    x += np.uint32((k * 0x9E3779B9) % 2**32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    u = x.astype(np.float64) / 2**32
    return (offset + bound * (2 * u - 1)).astype(np.float32).reshape(shape)


def masks(recording: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Boolean masks below a prefix; packed ones are unpacked."""
    recorded = under(recording, prefix)
    unpacked = {}
    for name, value in recorded.items():
        name, _, part = name.partition("@")
        if part == "bits":
            shape = recorded[f"{name}@shape"]
            bits = np.unpackbits(value, count=int(np.prod(shape)))
            unpacked[name] = bits.reshape(shape).astype(bool)
        elif not part:
            unpacked[name] = value
    return unpacked
