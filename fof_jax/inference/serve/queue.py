"""Requests that the server holds: a bounded number with a bounded number of bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool

from fof_jax.inference.serve.uploads import RequestError


class Queue:
    """One computation at a time, which uses the whole device.

    Attributes:
      held: bytes of the bodies of requests that have a place.
    """

    def __init__(self, most: int, max_bytes: int):
        self._lock, self._waiting, self._most = asyncio.Lock(), 0, most
        self.held, self._max_held = 0, max_bytes

    @asynccontextmanager
    async def place(self, size: int = 0) -> AsyncIterator[None]:
        """A place for a request whose body has so many bytes, taken before it is read.

        Raises:
          RequestError: too many requests, or too many bytes with those of the others.
        """
        if self._waiting > self._most:
            raise RequestError(
                503,
                f"too many images at once: {self._waiting} requests are held, at most "
                f"{self._most + 1}; try again in a moment",
            )
        if self._waiting and self.held + size > self._max_held:
            raise RequestError(
                503,
                f"busy: {self.held:,} bytes of other requests are held and this one "
                f"has up to {size:,}, at most {self._max_held:,} together; try again "
                "in a moment, or send smaller files",
            )
        self._waiting += 1
        self.held += size
        try:
            yield
        finally:
            self._waiting -= 1
            self.held -= size

    async def run(self, function: Callable[..., Any], *words: Any) -> Any:
        """The function's result, computed when those before it are done."""
        async with self._lock:
            return await run_in_threadpool(function, *words)
