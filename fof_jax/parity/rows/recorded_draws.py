"""Recorded dropout masks and noise in place of random draws."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flax import linen as nn

from fof_jax.parity.rows.torch_layout import Path


@contextmanager
def recorded_draws(
    masks: Mapping[Path, Any], draws: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Random draws of the modules replaced by recorded ones.

    Args:
      masks: of a dropout module by its path.
      draws: by method name and first argument, of modules that draw otherwise.
    """
    draws = draws or {}

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Any,
    ) -> Any:
        name = context.method_name
        if name == "sample_mask":
            if context.module.path not in masks:
                raise ValueError(
                    f"parity: no recorded mask for {'/'.join(context.module.path)}."
                )
            return masks[context.module.path]
        key = "/".join((name, *(a for a in args if isinstance(a, str))))
        return draws[key] if key in draws else next_fun(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield
