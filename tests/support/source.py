"""The package's source files by module."""

from pathlib import Path


def modules(package: Path) -> dict[str, Path]:
    """Files by dotted name below the package; a folder's `__init__` has its name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(parts)] = path
    return found
