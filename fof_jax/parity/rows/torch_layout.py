"""PyTorch names and layouts of recorded arrays, and their places in Flax variables."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Path = tuple[str, ...]
Layers = Mapping[str, Path]  # PyTorch layer -> path of a Flax module
Recording = Mapping[str, np.ndarray]

_STATISTICS = {"running_mean": "mean", "running_var": "var"}
# Parameters of the published classes that nothing trains or reads.
CONSTANTS = ("output_range", "output_shift")


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
    found = under(recording, prefix)
    unpacked = {}
    for name, value in found.items():
        name, _, part = name.partition("@")
        if part == "bits":
            shape = found[f"{name}@shape"]
            bits = np.unpackbits(value, count=int(np.prod(shape)))
            unpacked[name] = bits.reshape(shape).astype(bool)
        elif not part:
            unpacked[name] = value
    return unpacked


def place(name: str, layers: Layers) -> tuple[str, Path] | None:
    """Collection and path of a PyTorch tensor.

    Args:
      name: such as encoder.0.0.weight.
      layers: the paths of its layers.

    Returns:
      collection and path, without "weight"'s leaf, which depends on its rank: the
      last key is "weight" there. None for tensors without a counterpart.

    Raises:
      ValueError: the layer is unknown.
    """
    layer, _, leaf = name.rpartition(".")
    if leaf in CONSTANTS or leaf == "num_batches_tracked":
        return None
    if layer not in layers:
        raise ValueError(
            f"parity: the recording has a tensor {name!r} of an unknown layer. "
            f"Expected layers {', '.join(sorted(layers))}."
        )
    if leaf in _STATISTICS:
        return "batch_stats", (*layers[layer], _STATISTICS[leaf])
    return "params", (*layers[layer], leaf)


def to_flax(
    tensors: Mapping[str, np.ndarray], layers: Layers
) -> dict[str, dict[str, Any]]:
    """Tensors by PyTorch name to Flax collections.

    Args:
      tensors: parameters and BatchNorm statistics.
      layers: the paths of their layers.

    Returns:
      {"params": …, "batch_stats": …} with kernels [I, O] and [I, J, O].
    """
    collections: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, value in tensors.items():
        target = place(name, layers)
        if target is None:
            continue
        collection, (*parents, leaf) = target
        node = collections[collection]
        for key in parents:
            node = node.setdefault(key, {})
        if leaf == "weight":
            node["scale" if value.ndim == 1 else "kernel"] = _turned(value)
        else:
            node[leaf] = value
    return collections


def from_flax(
    name: str, collections: Mapping[str, Any], layers: Layers
) -> np.ndarray | None:
    """The array of Flax collections that a PyTorch name stands for, in its layout."""
    target = place(name, layers)
    if target is None:
        return None
    collection, (*parents, leaf) = target
    node = collections[collection]
    for key in parents:
        node = node[key]
    if leaf != "weight":
        return np.asarray(node[leaf])
    if "scale" in node:
        return np.asarray(node["scale"])
    return _turned_back(np.asarray(node["kernel"]))


def _turned(value: np.ndarray) -> np.ndarray:
    return np.moveaxis(value, 0, -1)  # [O, I] to [I, O], [O, I, J] to [I, J, O]


def _turned_back(value: np.ndarray) -> np.ndarray:
    if value.ndim == 0:  # a number for each tensor, such as a step count
        return value
    return np.moveaxis(value, -1, 0)
