"""Batches on their way to the device while a step runs; the time waited for them."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates over (batch as the loader made it, batch on its device).

    In the place of a batch there may be several, which go to the device together.

    Transfers are started `ahead` batches before they are asked for; JAX runs them
    while the device computes. Reading ahead on the host is the loader's affair
    (`data.threads`), so that the order and the values stay its own.

    Attributes:
      waited: seconds spent in getting batches, since the last `take_waited`.
    """

    def __init__(
        self,
        batches: Iterable[T],
        place: Callable[[T], Any],
        *,
        ahead: int = 1,
    ):
        """Starts nothing yet.

        Args:
          batches: of the loader.
          place: puts a batch on its devices and returns at once, e.g.
            `parallel.place`.
          ahead: batches on the device besides the one in use, at least 0.

        Raises:
          ValueError: `ahead` is negative.
        """
        if ahead < 0:
            raise ValueError(
                f"prefetch: ahead is {ahead}; expected 0 or more batches. Pass 1 for "
                "one batch in flight."
            )
        self._batches = iter(batches)
        self._place = place
        self._ahead = ahead
        self._queue: collections.deque[tuple[T, Any]] = collections.deque()
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[T, Any]]:
        """The iterator is the object: it is run through once."""
        return self

    def __next__(self) -> tuple[T, Any]:
        """The next batch; StopIteration once the loader and the queue are empty."""
        start = time.perf_counter()
        while len(self._queue) <= self._ahead:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._queue.append((batch, self._place(batch)))
        self.waited += time.perf_counter() - start
        if not self._queue:
            raise StopIteration
        return self._queue.popleft()

    def take_waited(self) -> float:
        """Seconds waited since the last call; starts counting anew."""
        waited, self.waited = self.waited, 0.0
        return waited
