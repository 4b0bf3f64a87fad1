"""Files that survive crashes: atomic writes, file locks, SHA-256 manifests."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)
# Errors of file systems without locks: Lustre without flock, NFS without lockd.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


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


@contextlib.contextmanager
def only_one(path: Path, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock, or says who does.

    Args:
      path: the lock file; it stays behind, its content means something only while
        somebody holds it.
      what: is locked, for the message.
      say: prints a line.

    Yields:
      None, while the lock is held.

    Raises:
      ValueError: another process holds it: its number, host and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{what} is in use by {_holder(path)}. Wait until it is done, end it, "
                "or pass another --workdir or --config.fold."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(
                f"warning: {path.parent} is on a file system without locks; see to it "
                "that no other process works there"
            )
        file.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        file.write(json.dumps(holder) + "\n")
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return "process {pid} on {host}, since {since}".format(**holder)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet


def seal(folder: Path) -> None:
    """Writes the manifest of a folder that is whole; the last thing to be done."""
    write_text(folder / MANIFEST, json.dumps(_digests(folder), indent=1))


def sealed(folder: Path) -> bool:
    """Whether the folder was finished; `verify` says whether it still is whole."""
    return (folder / MANIFEST).exists()


def verify(folder: Path) -> str | None:
    """What is wrong with a sealed folder, or None."""
    if not sealed(folder):
        return "it was not finished"
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        expected = None
    if not isinstance(expected, dict):
        return f"{MANIFEST} cannot be read"
    found = _digests(folder)
    names = sorted(
        name for name in {*found, *expected} if found.get(name) != expected.get(name)
    )
    return f"file {names[0]} is damaged or missing" if names else None


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        # Itself, and what a write of it that was cut off has left.
        ours = path.name == MANIFEST or path.name.startswith(f".{MANIFEST}-")
        if ours or not path.is_file():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[str(path.relative_to(folder))] = digest
    return digests
