"""Graceful stop on SIGTERM and SIGINT: finish the step, save, exit.

A thread watches for signals, because the interpreter does not handle them during a
long step; a second signal ends the process at once.
"""

import contextlib
import enum
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
    """Training was stopped by a signal after saving its state.

    Attributes:
      code: to exit with, 143 (SIGTERM) or 130 (SIGINT).
    """

    def __init__(self, code: int):
        super().__init__(f"stopped by {signal.Signals(code - FIRST_CODE).name}")
        self.code = code


class Action(enum.IntEnum):
    """What a process does after a step; of several processes the largest counts."""

    NONE = 0
    SAVE = 1  # write a checkpoint and continue
    STOP = 2  # write a checkpoint and end


class StopRequest:
    """Pending stop signal of this process.

    Attributes:
      code: exit code of the first signal, 0 while there was none.
    """

    code = 0

    @property
    def action(self) -> Action:
        """STOP once a signal has come."""
        return Action.STOP if self.code else Action.NONE

    def until(self, batches: Iterable[T], *, alone: bool) -> Iterator[T]:
        """Yields batches until they end or a stop signal has ended the loader.

        A signal to the process group also ends the loader's worker processes.

        Args:
          batches: of the loader.
          alone: whether this is the only process of the run.

        Raises:
          Stopped: the loader has ended, and other processes expect a collective.
        """
        try:
            yield from batches
        except Exception as error:
            if not self.code:
                raise
            if not alone:
                raise Stopped(self.code) from error


@contextlib.contextmanager
def signal_handlers() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a stop request; a second one exits at once.

    Yields:
      The pending request. No-op outside the main thread, where Python does not allow
      signal handlers.
    """
    request = StopRequest()
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


def _watch(ours: socket.socket, request: StopRequest) -> None:
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
