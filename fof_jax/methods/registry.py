"""Methods by name."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fof_jax.methods.base import Method

# name -> module with `build(**options) -> Method`


METHODS = {
    "fof": "fof_jax.methods.paper.method",
    "release": "fof_jax.methods.release.method",
    "vit": "fof_jax.methods.baseline",
}


def find(name: str) -> Callable[..., Method]:
    """The `build` of a method.

    Raises:
      ValueError: the name is not in the table.
    """
    if name not in METHODS:
        raise ValueError(
            f"method: {name!r} does not exist. Expected one of {', '.join(METHODS)}."
        )
    return importlib.import_module(METHODS[name]).build


def create(name: str, available: Mapping[str, Any]) -> Method:
    """Builds a method by its name in the table.

    Args:
      name: a key of `METHODS`.
      available: everything that the configuration and the data offer, by flat name
        (`cam.block` is `cam_block`). The method's `build` takes what it names.

    Raises:
      ValueError: as `find`; or something that the method needs is not there.
    """
    build = find(name)
    named = inspect.signature(build).parameters
    missing = [
        field
        for field, parameter in named.items()
        if field not in available and parameter.default is inspect.Parameter.empty
    ]
    if missing:
        raise ValueError(
            f"method {name!r}: the configuration has no field for "
            f"{', '.join(missing)}. Compare with a config in configs/ that uses it."
        )
    return build(**{f: value for f, value in available.items() if f in named})
