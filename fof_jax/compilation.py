"""The persistent compilation cache: a program that was compiled once is read back."""

import os
from pathlib import Path
from typing import Any

import jax

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
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The step is what takes long; small programs would fill the folder with files.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder
