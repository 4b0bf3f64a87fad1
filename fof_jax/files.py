"""Atomic file writes, file locks and SHA-256 manifests."""

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
# Errors of file systems to which nothing more can be written.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Errors of file systems without locks: Lustre without flock, NFS without lockd.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(ValueError):
    """Another process holds a lock.

    Attributes:
      holder: which.
    """

    def __init__(self, what: str, holder: str, remedy: str):
        super().__init__(
            f"{what} is in use by {holder}. Wait until it is done, end it, or {remedy}."
        )
        self.holder = holder


def raise_if_full(error: Exception) -> None:
    """Raises an error that is not of one input, but of the disk that takes the outputs.

    Args:
      error: that an input's computation or output raised.

    Raises:
      OSError: the disk is full, its quota is used up, or it is read-only.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f": {error.filename}" if error.filename else ""
        raise OSError(
            error.errno,
            f"{error.strerror}{where}. Finished outputs are kept: free space, and run "
            "the same command again, which resumes",
        ) from None


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically, see `write_with`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes atomically, see `write_with`."""
    write_with(path, lambda file: file.write(data))


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically: to a temporary file in the same folder, then renames.

    Args:
      path: destination; missing parent folders are created.
      write: writes the whole content to an open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        # mkstemp creates files with mode 0600.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; waits, with a warning, while it is taken.

    The kernel releases the lock when its process ends, even if it is killed, so
    partial results found under the lock are left over from a dead process.

    Args:
      path: the lock file; it is not removed afterwards.

    Yields:
      None, while the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning(
                "Waiting for another process to release the lock on %s", path.parent
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusive_lock(
    path: Path,
    what: str,
    log: Callable[[str], None],
    *,
    remedy: str = "pass another --workdir or --config.fold",
) -> Iterator[None]:
    """Holds an exclusive lock on a file; raises if another process holds it.

    Args:
      path: the lock file; it is not removed afterwards, and names the holder only
        while the lock is held.
      what: the locked resource, for the error message.
      log: prints a line; gets a warning where the file system has no locks.
      remedy: what the user can do besides waiting, for the error message.

    Yields:
      None, while the lock is held.

    Raises:
      LockedError: another process holds the lock; the message has its PID, host and
        start time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(what, _holder(path), remedy) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log(
                f"warning: {path.parent} is on a file system without locks; make sure "
                "that no other process writes to it"
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
        return "another process"  # which has not written its PID yet


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder; call it last, its presence marks completion."""
    write_text(folder / MANIFEST, json.dumps(_digests(folder), indent=1))


def has_manifest(folder: Path) -> bool:
    """Whether the folder was completed; `verify_manifest` checks its files."""
    return (folder / MANIFEST).exists()


def verify_manifest(folder: Path) -> str | None:
    """Checks a folder against its manifest: the first mismatch, or None if intact.

    Files that the manifest does not name are ignored: file managers and copies leave
    theirs (.DS_Store, Thumbs.db), and nothing reads them.
    """
    if not has_manifest(folder):
        return "it was not finished"
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        expected = None
    if not isinstance(expected, dict):
        return f"{MANIFEST} cannot be read"
    actual = _digests(folder)
    names = sorted(name for name in expected if actual.get(name) != expected[name])
    return f"file {names[0]} is damaged or missing" if names else None


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        # Skips the manifest and temporary files of interrupted manifest writes.
        skipped = path.name == MANIFEST or path.name.startswith(f".{MANIFEST}-")
        if skipped or not path.is_file():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[str(path.relative_to(folder))] = digest
    return digests
