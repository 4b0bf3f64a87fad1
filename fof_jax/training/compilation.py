"""Compilation ahead of the first call."""

import ctypes
import gc
from typing import Any

import jax
import jax.numpy as jnp


class Ahead:
    """Ahead-of-time compilation of a mapped function, once per argument shape.

    Compiling takes hundreds of megabytes that the allocator keeps. Given back before
    the first call, they do not add to the peak of a step.
    """

    def __init__(self, mapped: Any):
        """A result of `jax.jit` or `jax.pmap`; nothing is compiled yet."""
        self._mapped = mapped
        self._compiled: dict[Any, Any] = {}

    def is_compiled(self, *arguments: Any) -> bool:
        """Whether there is an executable for arguments of these shapes."""
        return _key(arguments) in self._compiled

    def compiled(self, *arguments: Any) -> Any:
        """The executable for arguments of these shapes; arrays are not touched."""
        key = _key(arguments)
        if key not in self._compiled:
            self._compiled[key] = self._mapped.lower(*arguments).compile()
            give_back_memory()
        return self._compiled[key]

    def __call__(self, *arguments: Any) -> Any:
        """Calls the executable for these arguments."""
        return self.compiled(*arguments)(*arguments)


def _key(arguments: tuple[Any, ...]) -> Any:
    leaves, tree = jax.tree.flatten(arguments)
    return tree, tuple(_shape_and_type(leaf) for leaf in leaves)


def _shape_and_type(leaf: Any) -> Any:
    """Of an array without a look at JAX's rules of types, which take 30 us a leaf."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return jnp.shape(leaf), jnp.result_type(leaf)
    return leaf.shape, dtype


def give_back_memory() -> None:
    """Returns freed heap to the system where it can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
