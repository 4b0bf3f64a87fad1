"""Published names of CLAT's tensors, and our trees of parameters and statistics."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill.clat_layers import Tree
from fof_jax.methods.distill.clat_network import OMIC_WIDTHS

# Biases before a BatchNorm, whose exact gradient is 0.
BEFORE_BATCH_NORM = ("fc_new1.0.bias", "encoder1.0.bias", "encoder2.0.bias")
CONSTANTS = {"output_range": 6.0, "output_shift": -3.0}

Path = tuple[str | int, ...]

IMAGE_HEAD: dict[str, tuple[Path, str]] = {
    "fc_new1.0": (("hidden",), "linear"),
    "fc_new1.1": (("norm",), "norm"),
    "fc_new2": (("classifier",), "linear"),
}
EMBEDDINGS: dict[str, tuple[Path, str]] = {
    "embed_s.linear": (("student",), "linear"),
    "embed_t.linear": (("teacher",), "linear"),
}


def _multimodal() -> dict[str, tuple[Path, str]]:
    modules: dict[str, tuple[Path, str]] = {
        f"path_net.{name}": (("image", *path), kind)
        for name, (path, kind) in IMAGE_HEAD.items()
    }
    for i in range(len(OMIC_WIDTHS) + 1):
        modules[f"omic_net.encoder.{i}.0"] = (("omic", "layers", i), "linear")
    modules["omic_net.classifier.0"] = (("omic", "classifier"), "linear")
    for i in (1, 2):
        modules[f"fusion.linear_h{i}.0"] = (("fusion", f"h{i}"), "linear")
        modules[f"fusion.linear_z{i}"] = (("fusion", f"z{i}"), "bilinear")
        modules[f"fusion.linear_o{i}.0"] = (("fusion", f"o{i}"), "linear")
        modules[f"fusion.encoder{i}.0"] = (("fusion", f"encoder{i}"), "linear")
        modules[f"fusion.encoder{i}.1"] = (("fusion", f"norm{i}"), "norm")
    modules["classifier.0"] = (("classifier",), "linear")
    return modules


MULTIMODAL = _multimodal()


def _leaves(modules: Mapping[str, tuple[Path, str]]) -> Iterator[tuple[str, Path]]:
    """Published name and path of every parameter."""
    for module, (path, kind) in modules.items():
        weight = "scale" if kind == "norm" else "kernel"
        yield f"{module}.weight", (*path, weight)
        yield f"{module}.bias", (*path, "bias")


def _is_linear(modules: Mapping[str, tuple[Path, str]], name: str) -> bool:
    module, kind = name.rsplit(".", 1)
    return kind == "weight" and modules[module][1] == "linear"


def _put(tree: dict, path: Path, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _lists(tree: Any) -> Any:
    """Dicts with the keys 0 … n-1 as lists."""
    if not isinstance(tree, dict):
        return tree
    if all(isinstance(key, int) for key in tree):
        return [_lists(tree[i]) for i in range(len(tree))]
    return {key: _lists(value) for key, value in tree.items()}


def parameters(
    z: Mapping[str, np.ndarray], prefix: str, modules: Mapping[str, tuple[Path, str]]
) -> Tree:
    """Our tree of parameters from the tensors under a prefix."""
    tree: dict = {}
    for name, path in _leaves(modules):
        value = z[prefix + name]
        _put(tree, path, jnp.asarray(value.T if _is_linear(modules, name) else value))
    return _lists(tree)


def statistics(
    z: Mapping[str, np.ndarray], prefix: str, modules: Mapping[str, tuple[Path, str]]
) -> Tree:
    """Our tree of BatchNorm statistics from the tensors under a prefix."""
    tree: dict = {}
    for module, (path, kind) in modules.items():
        if kind == "norm":
            value = {
                ours: jnp.asarray(z[f"{prefix}{module}.running_{ours}"])
                for ours in ("mean", "var")
            }
            _put(tree, path, value)
    # The image head's statistics are those of its only BatchNorm.
    if "norm" in tree:
        return tree["norm"]
    return tree | {"image": tree["image"]["norm"]}


def named_parameters(
    tree: Tree, modules: Mapping[str, tuple[Path, str]]
) -> dict[str, np.ndarray]:
    """The reverse of `parameters`."""
    named = {}
    for name, path in _leaves(modules):
        value = tree
        for key in path:
            value = value[key]
        array = np.asarray(value)
        named[name] = array.T if _is_linear(modules, name) else array
    return named


def named_statistics(
    tree: Tree, modules: Mapping[str, tuple[Path, str]]
) -> dict[str, np.ndarray]:
    """The reverse of `statistics`."""
    if "mean" in tree:
        tree = {"norm": tree}
    else:
        tree = tree | {"image": {"norm": tree["image"]}}
    named = {}
    for module, (path, kind) in modules.items():
        if kind == "norm":
            value = tree
            for key in path:
                value = value[key]
            for ours in ("mean", "var"):
                named[f"{module}.running_{ours}"] = np.asarray(value[ours])
    return named


def split_before_batch_norm(
    named: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All tensors but those before a BatchNorm, and those."""
    apart = {k: v for k, v in named.items() if k.endswith(BEFORE_BATCH_NORM)}
    return {k: v for k, v in named.items() if k not in apart}, apart
