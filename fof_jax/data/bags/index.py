"""Index of the bags of a store: where each file is, and what it was when checked.

The files stay where they are. One that has changed since the build is refused by name:
its size and time of modification are compared before every reading, and where they
differ, its hash.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from fof_jax.data.bags import layouts, reading
from fof_jax.data.bags.layouts import BagError, Header


@dataclasses.dataclass(frozen=True)
class Entry:
    """One checked file.

    Attributes:
      path: absolute.
      header: what it holds.
      size: bytes.
      modified: time of modification, nanoseconds.
      sha256: of its bytes.
      slide: the slide's file, where the table names it.
    """

    path: Path
    header: Header
    size: int
    modified: int
    sha256: str
    slide: Path | None = None


def check(path: Path, patch_size: float | None = None) -> Entry:
    """Checks and hashes one file; see `reading.check`."""
    before = _stat(path)
    header = reading.check(path, patch_size)
    digest = _sha256(path)
    if _stat(path) != before:
        raise BagError("changed", f"{path.name} was written to while it was checked")
    return Entry(Path(path).absolute(), header, *before, digest)


def check_all(
    paths: Sequence[Path],
    *,
    patch_size: float | None = None,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Entry | BagError]:
    """`check` of each file, in order; an error in the place of a file that fails."""
    layouts.hdf5()  # fails once, not for each file

    def one(path: Path) -> Entry | BagError:
        try:
            return check(path, patch_size)
        except BagError as error:
            return error

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(one, paths):
            found.append(result)
            if progress is not None:
                progress(len(found), len(paths))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class BagIndex:
    """The bags of a cohort, in table order; files are opened when read.

    Attributes:
      entries: one per bag.
    """

    entries: tuple[Entry, ...]
    # State of the files that was found to be that of the build: (size, modified).
    _accepted: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    @functools.cached_property
    def counts(self) -> Int[np.ndarray, " n"]:
        """N of each bag."""
        return np.array([entry.header.count for entry in self.entries], np.int64)

    @property
    def width(self) -> int:
        """D, the same for all bags."""
        return self.entries[0].header.width

    @functools.cached_property
    def has_mask(self) -> Bool[np.ndarray, " n"]:
        """True where a file says which patches decide the grade."""
        return np.array([entry.header.has_mask for entry in self.entries], bool)

    @property
    def nbytes(self) -> int:
        """Memory of all bags as read."""
        return sum(
            e.header.count * (e.header.width * np.dtype(e.header.dtype).itemsize + 8)
            for e in self.entries
        )

    def read(self, i: int) -> reading.BagValues:
        """Patches of bag i.

        Raises:
          ValueError: the file is missing, or has changed since the build.
        """
        self.require_unchanged(i)
        return reading.read(self.entries[i].path, self.entries[i].header)

    def read_coords(self, i: int) -> np.ndarray:
        """Corners of bag i in the unit of its file, float64 [N, 2]."""
        self.require_unchanged(i)
        return reading.read_coords(self.entries[i].path)

    def read_mask(self, i: int) -> Bool[np.ndarray, " N"] | None:
        """Which patches of bag i decide the grade; None if the file does not say."""
        if not self.entries[i].header.has_mask:
            return None
        self.require_unchanged(i)
        return reading.read_mask(self.entries[i].path)

    def require_unchanged(self, i: int) -> None:
        """Raises if the file of bag i is not the one that was checked."""
        entry = self.entries[i]
        built = (entry.size, entry.modified)
        now = _stat(entry.path)
        if now == self._accepted.get(i, built):
            return
        if now[0] != entry.size or _sha256(entry.path) != entry.sha256:
            raise BagError(
                "changed",
                f"store: {entry.path} has changed since the store was built. Bring the "
                "file back, or build again: python launch.py data build, with the "
                "config of the cohort.",
            )
        self._accepted[i] = now  # touched or copied, with the same bytes

    def require_all_unchanged(self) -> None:
        """`require_unchanged` of every bag; reads no file that was not touched."""
        for i in range(len(self)):
            self.require_unchanged(i)

    def digest(self) -> str:
        """SHA-256 of the contents and patch sizes of all files."""
        whole = hashlib.sha256()
        for entry in self.entries:
            whole.update(f"{entry.sha256} {entry.header.patch_size!r}\n".encode())
        return whole.hexdigest()

    def to_json(self) -> list[dict[str, Any]]:
        """JSON values; `from_json` is the inverse."""
        return [
            dataclasses.asdict(entry)
            | {"path": str(entry.path)}
            | {"slide": None if entry.slide is None else str(entry.slide)}
            for entry in self.entries
        ]


def from_json(document: Sequence[dict[str, Any]]) -> BagIndex:
    """Reads `BagIndex.to_json`."""
    return BagIndex(tuple(_entry(fields) for fields in document))


def _entry(fields: dict[str, Any]) -> Entry:
    slide = fields.get("slide")  # earlier stores do not have it
    parsed = {
        "path": Path(fields["path"]),
        "header": Header(**fields["header"]),
        "slide": None if slide is None else Path(slide),
    }
    return Entry(**fields | parsed)


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise BagError("missing file", f"{path} does not exist") from None
    return status.st_size, status.st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
