"""Compiled functions of a method, and their calls in batches of one size.

Methods are static: models of one configuration, and their folds, share programs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fof_jax.data.augment import pipeline
from fof_jax.methods.base import standardize
from fof_jax.types import Batch, Variables

BATCH = 8  # tiles in one call of a compiled function


def in_batches(
    compiled: Callable[..., Any], tiles: np.ndarray, omics: np.ndarray | None = None
) -> np.ndarray:
    """Applies a compiled function to tiles, and their omics, in batches of one size.

    The last batch is padded, so that one compiled program is enough.
    """
    size = BATCH if len(tiles) > 1 else 1
    arrays = [tiles] if omics is None else [tiles, omics]
    parts = []
    for first in range(0, len(tiles), size):
        batch = [one[first : first + size] for one in arrays]
        count = len(batch[0])
        padded = [
            np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
            for part in batch
        ]
        parts.append(np.asarray(compiled(*padded), np.float64)[:count])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(
    method: Any,
    color: bool,
    variables: Variables,
    tiles: jax.Array,
    omics: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and features; omics are standardized by the fold's statistics."""
    batch = Batch(image=pipeline.normalize(tiles, color=color), omics=omics)
    output = method.apply(variables, standardize(batch, variables.frozen))
    return jax.nn.softmax(output.logits), output.features


@functools.partial(jax.jit, static_argnums=0)
def apply_to_graphs(
    method: Any, variables: Variables, graph: Any
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and features of padded graphs."""
    output = method.apply(variables, Batch(image=None, graph=graph))
    return jax.nn.softmax(output.logits), output.features


@functools.partial(jax.jit, static_argnums=(0, 1))
def class_activation_map(
    method: Any, color: bool, variables: Variables, tiles: jax.Array, targets: jax.Array
) -> jax.Array:
    """Class activation maps of uint8 tiles, each for its target."""
    image = pipeline.normalize(tiles, color=color)
    return method.class_activation_map(variables, image, targets)


@functools.partial(jax.jit, static_argnums=0)
def patch_mask(method: Any, A: jax.Array) -> jax.Array:
    """M of the maps of tiles, one value per patch."""
    return method.patch_mask(A)
