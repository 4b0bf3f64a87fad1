"""Tensors of PyTorch layers and their places in Flax collections.

A table gives the path of the Flax module of each PyTorch layer; names of tensors and
axes follow from the rank.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Path = tuple[str, ...]
Layers = Mapping[str, Path]  # PyTorch layer -> path of a Flax module

STATISTICS = {"running_mean": "mean", "running_var": "var"}
# Parameters of published classes that nothing trains or reads.
CONSTANTS = ("output_range", "output_shift")


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
            f"weights: there is a tensor {name!r} of an unknown layer. Expected layers "
            f"{', '.join(sorted(layers))}."
        )
    if leaf in STATISTICS:
        return "batch_stats", (*layers[layer], STATISTICS[leaf])
    return "params", (*layers[layer], leaf)


def to_flax(
    tensors: Mapping[str, np.ndarray], layers: Layers
) -> dict[str, dict[str, Any]]:
    """Tensors by PyTorch name to Flax collections.

    Args:
      tensors: parameters and BatchNorm statistics.
      layers: the paths of their layers.

    Returns:
      {"params": …, "batch_stats": …} with kernels [I, O], [I, J, O] and [h, w, I, O].
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
            node["scale" if value.ndim == 1 else "kernel"] = kernel_of(value)
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
    return weight_of(np.asarray(node["kernel"]))


def kernel_of(weight: np.ndarray) -> np.ndarray:
    """[O, I] to [I, O], [O, I, J] to [I, J, O], [O, I, h, w] to [h, w, I, O]."""
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    return np.moveaxis(weight, 0, -1)


def weight_of(kernel: np.ndarray) -> np.ndarray:
    """The inverse of `kernel_of`; a number, such as a step count, stays as it is."""
    if kernel.ndim == 0:
        return kernel
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    return np.moveaxis(kernel, -1, 0)
