"""Files that appear whole or not at all, and one builder at a time in a folder."""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, see `write_with`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes, see `write_with`."""
    write_with(path, lambda file: file.write(data))


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes to a temporary name in the same folder, then renames.

    Args:
      path: where the file goes; its folder is made if it is missing.
      write: puts the whole content into an open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        # mkstemp makes files that only their owner can read.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; waits, and says so, if another has it.

    The system drops the lock when its process ends, however it ends, so what a
    holder finds half-made was left by a process that is gone.

    Args:
      path: the lock file; it stays behind, empty.

    Yields:
      None, while the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("Waiting for another process that works in %s", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
