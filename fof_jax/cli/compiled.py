"""Compiled programs on disk: where JAX keeps them, and how many.

`use` sets JAX's persistent compilation cache for one command, by the variables that JAX
reads when it is imported, so that child processes share the folder. JAX names an entry
by program, versions and devices: an old one is never wrong, and the folder may be
removed at any time. Programs for a CPU divide sums among the cores, whose number JAX
does not name: the default is a folder for that number. The folder is the first of

1. `--compiled`: a folder, or `off`;
2. what JAX itself was told: `JAX_COMPILATION_CACHE_DIR`, or
   `JAX_ENABLE_COMPILATION_CACHE=false` for none;
3. `fof_jax/compiled/<processor>-<cores>` in `$XDG_CACHE_HOME`, or `~/.cache`.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

from fof_jax.data.cores import usable_cores
from fof_jax.data.errors import DataWarning

FOLDER, ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
OFF = "off"
LIMIT = 2**30  # bytes of the entries in a folder
_AFTERWARDS = 0.75  # fraction of the limit that is left once entries are removed
_ENTRIES = "*-cache"  # as JAX names them
_CHECKED = ".checked"  # entries from before its time are known to be whole
_WRITING = 60.0  # seconds in which another process may still write an entry


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --compiled."""
    parser.add_argument(
        "--compiled",
        metavar="FOLDER|off",
        help="where compiled programs are kept; default: fof_jax/compiled in the "
        "user's cache folder",
    )


def use(choice: str | None) -> Path | None:
    """Makes JAX keep compiled programs; call it before anything is compiled.

    JAX does not write an entry atomically: of a folder of ours, entries that a killed
    process left unfinished are removed first, and those least recently used where
    there are more than `LIMIT` bytes.

    Args:
      choice: a folder, `off`, or None for the rules of this module.

    Returns:
      The folder, or None without one.

    Warns:
      DataWarning: the default folder cannot be made; nothing is kept then.

    Raises:
      ValueError: the chosen folder cannot be made.
    """
    jax: Any = sys.modules.get("jax")
    if choice == OFF:
        os.environ[ENABLED] = "false"
        if jax:
            jax.config.update("jax_enable_compilation_cache", False)
        return None
    given = os.environ.get(FOLDER) or (jax and jax.config.jax_compilation_cache_dir)
    if choice is None and os.environ.get(ENABLED, "").lower() in ("false", "0", "off"):
        return None
    if choice is None and given:
        return Path(given)
    folder = default_folder() if choice is None else Path(choice).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        reason = f"compiled programs: {folder} cannot be used ({error.strerror})"
        if choice is not None:
            raise ValueError(
                f"{reason}. Pass --compiled with a folder that you may write to, or "
                f"--compiled={OFF}."
            ) from error
        warnings.warn(f"{reason}; none are kept", DataWarning, stacklevel=2)
        return None
    os.environ[FOLDER] = str(folder)
    # Many programs of a prediction compile in less than JAX's bound, a second.
    os.environ.setdefault(_SHORTEST, "0")
    if jax:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update(
            "jax_persistent_cache_min_compile_time_secs", float(os.environ[_SHORTEST])
        )
    return folder


def default_folder() -> Path:
    """The user's folder for this kind of processor and number of cores.

    Programs for a CPU use its instructions, and home folders are shared by machines:
    one with fewer instructions would end in the middle of a program. They also divide
    sums among the cores that this process may use: from one folder for all, the last
    digits of a run would depend on which run compiled first.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The specification ignores relative paths.
    home = Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()
    return home / "fof_jax" / "compiled" / f"{_processor()}-{usable_cores()}"


def sweep(folder: Path, limit: int = LIMIT) -> None:
    """Removes entries that are not whole, and the least recently used above a limit.

    Several processes may do so at once, also while others read and write.

    Args:
      folder: of the entries.
      limit: in bytes.

    Raises:
      OSError: the folder cannot be written to.
    """
    now, checked = time.time(), folder / _CHECKED
    before = checked.stat().st_mtime if checked.exists() else 0.0
    entries: list[tuple[float, int, Path]] = []  # last use, size
    for path in folder.glob(_ENTRIES):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            status = path.stat()
            unfinished = before - _WRITING < status.st_mtime < now - _WRITING
            if unfinished and not _is_whole(path):
                path.unlink()
            else:
                used = max(status.st_atime, status.st_mtime)
                entries.append((used, status.st_size, path))
    checked.touch()
    total = sum(size for _, size, _ in entries)
    if total <= limit:
        return
    for _, size, path in sorted(entries):
        path.unlink(missing_ok=True)
        total -= size
        if total <= _AFTERWARDS * limit:
            return


def _is_whole(path: Path) -> bool:
    """Whether an entry that JAX compressed with zlib ends where it should.

    Where zstandard is installed, JAX uses that, and reports a damaged entry itself.
    """
    data = path.read_bytes()
    if data[:1] not in (b"\x78", b""):  # the first byte of a zlib stream
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(data)
    except zlib.error:
        return False
    return stream.eof


def _processor() -> str:
    """Name of a kind of processor: architecture, and a hash of its instructions."""
    machine = platform.machine() or "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next((s for s in lines if s.startswith(("flags", "Features"))), "")
        names = " ".join(sorted(flags.partition(":")[2].split()))
        return f"{machine}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    return machine
