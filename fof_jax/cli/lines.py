"""What the data verbs print while they work: progress with a rate, and warnings."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from fof_jax.data.faults import DataWarning

Progress = Callable[[int, int], None]
Out = TextIO | io.TextIOBase  # a StringIO is the latter only


@contextlib.contextmanager
def warnings_to(out: Out) -> Iterator[None]:
    """Says data warnings as plain lines; others keep to Python's own way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            yield
        finally:
            lines = [w for w in caught if issubclass(w.category, DataWarning)]
            others = [w for w in caught if not issubclass(w.category, DataWarning)]
            for line in lines:
                print(f"warning: {line.message}", file=out, flush=True)
    for other in others:
        warnings.warn_explicit(
            other.message, other.category, other.filename, other.lineno
        )


def progress_to(verb: str, out: Out) -> Progress:
    """A callback that prints a line with rate every few seconds, and a last one.

    Args:
      verb: what is being done to the images.
      out: where lines go.

    Returns:
      A function of (done, of).
    """
    start = last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < of and now - last < 5:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = f", {(of - done) / rate:.0f} s left" if done < of else ""
        print(f"{verb} {done}/{of} images, {rate:.0f}/s{left}", file=out, flush=True)

    return tell
