"""SHA-256 of every file of a folder: written last, so that it says "whole" too.

Orbax restores a flipped bit in silence; whoever reads weights verifies them here first.
"""

import hashlib
import json
from pathlib import Path

from fof_jax.data import atomic

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Writes the manifest of a folder that is whole; the last thing to be done."""
    atomic.write_text(folder / MANIFEST, json.dumps(_digests(folder), indent=1))


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
