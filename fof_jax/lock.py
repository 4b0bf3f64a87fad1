"""One process at a time: a lock on a file, which ends when its holder does."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# A file system without locks: Lustre mounted so, NFS without its lock service.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


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
