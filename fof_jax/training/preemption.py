"""SIGTERM and SIGINT: the step in hand is finished and saved, then the process leaves.

Signals are watched by a thread, because a long step keeps the interpreter from looking:
what is asked for a second time is done at once, in the middle of a step too.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FIRST_CODE = 128  # exit codes of signals begin here, by the shells' convention

T = TypeVar("T")


class Stopped(Exception):
    """A run that was asked to stop and has saved what it had.

    Attributes:
      code: to exit with, 143 (SIGTERM) or 130 (SIGINT).
    """

    def __init__(self, code: int):
        super().__init__(f"stopped by {signal.Signals(code - FIRST_CODE).name}")
        self.code = code


class Request:
    """What has been asked of this process.

    Attributes:
      code: exit code of the first signal, 0 while there was none.
    """

    code = 0

    def until(self, batches: Iterable[T], *, alone: bool) -> Iterator[T]:
        """The batches, to their end or to where a stop keeps more from coming.

        A signal to the whole group of processes ends the loader's workers too.

        Args:
          batches: of the loader.
          alone: whether this process may end its run and save by itself.

        Raises:
          Stopped: no more can come, and it is not alone.
        """
        try:
            yield from batches
        except Exception as error:
            if not self.code:
                raise
            if not alone:
                raise Stopped(self.code) from error


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """A block in which signals are requests; a second one leaves at once.

    Yields:
      What has been asked for. Outside the main thread nothing ever is: Python lets
      only that one take signals.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    ours, systems = socket.socketpair()
    systems.setblocking(False)
    watch = threading.Thread(target=_watch, args=(ours, request), daemon=True)
    handlers = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
    before = signal.set_wakeup_fd(systems.fileno(), warn_on_full_buffer=False)
    watch.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        systems.close()  # which ends the thread
        watch.join()
        ours.close()


def _watch(ours: socket.socket, request: Request) -> None:
    """Reads the number of each signal as it comes."""
    while number := ours.recv(1):
        if number[0] not in SIGNALS:
            continue
        code = FIRST_CODE + number[0]
        if request.code:
            os._exit(code)
        request.code = code
        print(
            f"{signal.Signals(number[0]).name}: stops after this step and saves; "
            "again to leave at once",
            file=sys.stderr,
            flush=True,
        )
