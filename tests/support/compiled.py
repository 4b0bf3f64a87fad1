"""A function as one program: operation by operation, each compiles one of its own."""

import functools

import jax
import numpy as np


def run(function, *arguments, **options):
    """Result on the host; options that are not arrays are constants of the program."""

    def is_array(tree):
        leaves = jax.tree.leaves(tree)
        return bool(leaves) and all(
            isinstance(a, jax.Array | np.ndarray) for a in leaves
        )

    arrays = {k: v for k, v in options.items() if is_array(v)}
    constants = {k: v for k, v in options.items() if k not in arrays}
    program = jax.jit(functools.partial(function, **constants))
    return jax.device_get(program(*arguments, **arrays))
