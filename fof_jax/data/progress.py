"""What the data verbs print while they work: progress with a rate, and warnings."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from fof_jax.data.errors import DataWarning

_WIDTH = 30  # of a progress bar, in characters
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


def progress_to(verb: str, out: Out, what: str = "images") -> Progress:
    """A callback that tells progress with its rate and the time that is left.

    On a terminal it is a bar, drawn anew a few times a second; elsewhere a line every
    few seconds, and a last one.

    Args:
      verb: what is being done to them.
      out: where it goes.
      what: they are.

    Returns:
      A function of (done, of).
    """
    bar = out.isatty()
    start = last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < of and now - last < (0.2 if bar else 5):
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = f", {(of - done) / rate:.0f} s left" if done < of else ""
        pace = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        line = f"{verb} {done}/{of} {what}, {pace}/s{left}"
        if bar:
            filled = _WIDTH * done // max(of, 1)
            drawn = "#" * filled + "." * (_WIDTH - filled)
            # Back to the start of the line; what an older, longer one left is cleared.
            print(f"\r\033[K[{drawn}] {line}", end="", file=out, flush=True)
            line = ""
        if not bar or done == of:
            print(line, file=out, flush=True)

    return tell
