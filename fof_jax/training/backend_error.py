"""Recognizes that JAX found none of the platforms in JAX_PLATFORMS."""

import os
import traceback
from collections.abc import Iterator

_STARTS = ("xla_bridge.py", "backends")  # file and function of JAX: backends start


def message(error: BaseException) -> str | None:
    """A message for the error that JAX raises without a usable backend.

    Args:
      error: RuntimeError, or AssertionError without a text, depending on the platform.

    Returns:
      What to print; None for any other error.
    """
    if not any(
        frame.filename.endswith(_STARTS[0]) and frame.name == _STARTS[1]
        for one in _chain(error)
        for frame in traceback.extract_tb(one.__traceback__)
    ):
        return None
    platforms = os.environ.get("JAX_PLATFORMS") or "unset"
    reason = str(error).splitlines()[0] if str(error) else "no such platform"
    return (
        f"JAX_PLATFORMS is {platforms}, and JAX cannot start it: {reason}. Unset "
        "JAX_PLATFORMS, or set it to cpu."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes: JAX removes its own frames from the first one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
