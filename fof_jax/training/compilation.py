"""Compilation cache, and compilation ahead of the first call."""

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

ENVIRONMENT = "JAX_COMPILATION_CACHE_DIR"


def use_cache(folder: Path | str) -> Path:
    """Makes JAX keep compiled programs in a folder; call it before the first compile.

    A folder in the environment (`JAX_COMPILATION_CACHE_DIR`) or set in JAX's own
    configuration wins: several runs, or all folds on several machines, then share one.
    Entries are keyed by program, versions and device; an old one is never wrong, and
    the folder may be removed at any time.

    Args:
      folder: e.g. workdir / "compiled"; made if it is not there.

    Returns:
      The folder in use.

    Raises:
      ValueError: the folder cannot be made.
    """
    config: Any = jax.config  # its fields are made at run time
    given = os.environ.get(ENVIRONMENT) or config.jax_compilation_cache_dir
    folder = Path(given or folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"compilation cache: {folder} cannot be made ({error.strerror}). Set "
            f"{ENVIRONMENT} to a folder that you may write to."
        ) from error
    # JAX keeps what took a second or more, unless its configuration says otherwise.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


class Ahead:
    """Ahead-of-time compilation of a mapped function, once per argument shape.

    Compiling takes hundreds of megabytes that the allocator keeps. Given back before
    the first call, they do not add to the peak of a step.
    """

    def __init__(self, mapped: Any):
        """A result of `jax.jit` or `jax.pmap`; nothing is compiled yet."""
        self._mapped = mapped
        self._compiled: dict[Any, Any] = {}

    def compiled(self, *arguments: Any) -> Any:
        """The executable for arguments of these shapes; arrays are not touched."""
        leaves, tree = jax.tree.flatten(arguments)
        key = tree, tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves)
        if key not in self._compiled:
            self._compiled[key] = self._mapped.lower(*arguments).compile()
            give_back_memory()
        return self._compiled[key]

    def __call__(self, *arguments: Any) -> Any:
        """Calls the executable for these arguments."""
        return self.compiled(*arguments)(*arguments)


def give_back_memory() -> None:
    """Returns freed heap to the system where it can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
