"""Names of images in tables, messages and output files, whatever the file is called."""

import collections
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

# Bytes of an output file's stem: file systems allow 255 for the name, of which its
# ending and that of a temporary file take some.
_MAX_STEM = 200


def printable(text: str) -> str:
    r"""A name or message that every table, terminal and encoding can hold.

    Bytes that are not UTF-8, control characters and blanks at an end are written as
    escapes (\xe9, \r, \x20); other names stay as they are.
    """
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in os.fsencode(text).decode("utf-8", "backslashreplace")
    )
    left, right = escaped.lstrip(" "), escaped.rstrip(" ")
    start, end = len(escaped) - len(left), len(escaped) - len(right)
    return r"\x20" * start + escaped.strip(" ") + r"\x20" * (end if left else 0)


def listed(names: Sequence[str], shown: int = 6) -> str:
    """The first names of a list, and how many more there are."""
    more = f", … and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def unique(names: Sequence[str]) -> list[str]:
    """The names, with "~2" and so on behind those that occur again.

    Two file names can have one printable form; rows of a table need two.
    """
    counts: collections.Counter[str] = collections.Counter()
    taken, distinct = set(names), []
    for name in names:
        counts[name] += 1
        while counts[name] > 1 and f"{name}~{counts[name]}" in taken:
            counts[name] += 1
        distinct.append(name if counts[name] == 1 else f"{name}~{counts[name]}")
    return distinct


def stems(names: Sequence[str]) -> list[str]:
    """Unique output file stems: the image's name below the common parent folder.

    The suffix is kept where names differ in nothing else. Long stems are cut, and end
    with a hash of the name.
    """
    paths = [Path(os.path.normpath(name)) for name in names]
    parents = [path.parent.parts for path in paths]
    common = len(os.path.commonprefix(parents))  # of tuples: whole folders
    below = ["__".join(path.parts[common:]).lstrip("/") for path in paths]
    bare = [name.removesuffix(Path(name).suffix) for name in below]
    counts = collections.Counter(bare)
    result: list[str] = []
    used: set[str] = set()
    for stem, name in zip(bare, below, strict=True):
        base = _shortened(stem if counts[stem] == 1 else name)
        tries = itertools.chain([base], (f"{base}-{k}" for k in itertools.count(2)))
        free = next(one for one in tries if one.casefold() not in used)
        used.add(free.casefold())
        result.append(free)
    return result


def _shortened(stem: str) -> str:
    data = stem.encode("utf-8", "backslashreplace")
    if len(data) <= _MAX_STEM:
        return stem
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: _MAX_STEM - 9].decode('utf-8', 'ignore')}-{digest}"
