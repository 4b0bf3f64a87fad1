"""Progress and warnings on a terminal or in a log."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from fof_jax.data.errors import DataWarning

_LOG_INTERVAL = 5  # seconds between lines where there is no terminal
Progress = Callable[[int, int], None]  # (done, total)
Out = TextIO | io.TextIOBase  # StringIO is only the latter


@contextlib.contextmanager
def warnings_to(out: Out) -> Iterator[None]:
    """Prints data warnings, one line each; other warnings are issued as usual."""
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
    """Creates a progress callback: a tqdm bar on a terminal, lines elsewhere.

    Args:
      verb: label, such as `stored`.
      out: stream to print to.
      what: unit in the plural.

    Returns:
      A function of (done, total).
    """
    bar: tqdm | None = None
    start = last = time.monotonic()

    def report_progress(done: int, total: int) -> None:
        nonlocal bar, last
        if out.isatty():
            if bar is None:
                label = verb.removesuffix(":")
                bar = tqdm(total=total, desc=label, unit=f" {what}", file=out)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
            return
        now = time.monotonic()
        if done < total and (not done or now - last < _LOG_INTERVAL):
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = ""
        if done < total:
            left = f", {tqdm.format_interval((total - done) / rate)} left"
        print(f"{verb} {done}/{total} {what}, {rate:.3g}/s{left}", file=out, flush=True)

    return report_progress
