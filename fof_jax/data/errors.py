"""Table errors, collected and raised together."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

SHOWN = 10  # errors of one kind that a message lists


class DataWarning(UserWarning):
    """Valid but noteworthy data: resized images, differing counts."""


class CohortError(ValueError):
    """A cohort that fails validation; `errors` lists every error found."""

    def __init__(self, message: str, errors: "tuple[RowError, ...]" = ()):
        super().__init__(message)
        self.errors = errors


class MissingDataError(ValueError):
    """Files that the user has to download or build first."""


@dataclasses.dataclass(frozen=True)
class RowError:
    """One error of a table. `row` counts from the header, row 1; None for no row."""

    kind: str
    row: int | None
    text: str


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises `ValueError` unless an option of the config's section `data` is known.

    Args:
      name: of the option, without `data.`.
      value: what was given.
      allowed: all that it may be.
    """
    if value not in allowed:
        raise ValueError(f"data.{name}={value!r}: expected one of {', '.join(allowed)}")


def raise_errors(table: Path | str, errors: list[RowError]) -> None:
    """Raises if there are errors, grouped by kind, with the first ten of each.

    Args:
      table: file or folder that was checked, named in the first line.
      errors: in any order; kinds are listed in order of first occurrence.

    Raises:
      CohortError: there is at least one error.
    """
    if not errors:
        return
    kinds: dict[str, list[RowError]] = {}
    for error in errors:
        kinds.setdefault(error.kind, []).append(error)
    lines = [f"{table}: {len(errors)} error(s). Nothing was written."]
    for kind, members in kinds.items():
        lines.append(f"{kind} ({len(members)}):")
        for error in members[:SHOWN]:
            where = "" if error.row is None else f"row {error.row}: "
            lines.append(f"  {where}{error.text}")
        if len(members) > SHOWN:
            lines.append(f"  … and {len(members) - SHOWN} more")
    lines.append("Rows count from the header, which is row 1.")
    raise CohortError("\n".join(lines), tuple(errors))


def shortened(items: list[str] | tuple[str, ...]) -> str:
    """Joins the first ten items of a list and counts the rest."""
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
