"""Variables without an initialization, which would be a program to compile."""

from typing import Any

import jax
import numpy as np

from fof_jax.types import Variables

# Batch statistics, and projections that are a draw of their own (Q22).
INDEPENDENT = {"batch_stats", "global_projectors"}


def filled(method, batch, frozen=None, *, seed=0, independent=INDEPENDENT) -> Variables:
    """Random numbers in the shapes of `method.init`, for tests that do not train.

    A method with other state than `independent` is initialized as in training, because
    that state depends on the parameters.
    """
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch, frozen)
    if set(shapes.state) - independent:
        return jax.jit(method.init)(jax.random.key(seed), batch, frozen)
    return Variables(
        _fill(shapes.params, seed), _fill(shapes.state, seed + 1000), frozen
    )


def of_module(module, *inputs, seed=0, **options) -> dict[str, Any]:
    """The same of a Flax module: its collections."""

    def init(*inputs):
        return module.init(jax.random.key(0), *inputs, **options)

    return _fill(jax.eval_shape(init, *inputs), seed)


def _fill(shapes: Any, seed: int = 0) -> Any:
    """Kernels of variance 1 / fan-in, scales and variances about 1, the rest small."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        values = rng.standard_normal(leaf.shape, np.float32)
        if name == "kernel":
            inputs = leaf.shape[:-1] if len(leaf.shape) == 4 else leaf.shape[-2:-1]
            values /= np.sqrt(max(1, np.prod(inputs)))  # of a convolution or a layer
        elif name in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values *= 0.02
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)
