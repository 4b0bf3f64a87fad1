"""Faults of a table, collected and told all at once."""

import dataclasses
from pathlib import Path

SHOWN = 10  # faults of one kind that a message spells out


class DataWarning(UserWarning):
    """Legal, but the user should know: images resized, counts that differ."""


class CohortError(ValueError):
    """Everything that is wrong with a cohort; `faults` has each of them."""

    def __init__(self, message: str, faults: "tuple[Fault, ...]" = ()):
        super().__init__(message)
        self.faults = faults


class MissingDataError(ValueError):
    """Files that the user has to fetch or build first."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault. `row` counts as a spreadsheet does: the header is row 1."""

    kind: str
    row: int | None
    text: str


def raise_faults(table: Path | str, faults: list[Fault]) -> None:
    """Raises if there are faults: grouped by kind, the first ten of each, the count.

    Args:
      table: what was checked, for the headline.
      faults: in any order; a kind is listed where it occurs first.

    Raises:
      CohortError: there is at least one fault.
    """
    if not faults:
        return
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    lines = [f"{table}: {len(faults)} fault(s). Nothing was written."]
    for kind, members in kinds.items():
        lines.append(f"{kind} ({len(members)}):")
        for fault in members[:SHOWN]:
            where = "" if fault.row is None else f"row {fault.row}: "
            lines.append(f"  {where}{fault.text}")
        if len(members) > SHOWN:
            lines.append(f"  … and {len(members) - SHOWN} more")
    lines.append("Rows count from the header, which is row 1.")
    raise CohortError("\n".join(lines), tuple(faults))


def shortened(items: list[str] | tuple[str, ...]) -> str:
    """The first ten of a list, and how many more there are."""
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
