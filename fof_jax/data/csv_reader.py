"""CSV reader that collects all cell errors instead of raising the first."""

import csv
import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fof_jax.data.errors import RowError

_UNKNOWN = {"", "na", "n/a", "nan"}
_INTEGER = re.compile(r"[+-]?\d{1,9}(\.0*)?")  # tables from pandas write 1 as 1.0


def unknown(cell: str) -> bool:
    """True for an empty cell, NA, N/A and NaN, ignoring case."""
    return cell.lower() in _UNKNOWN


def _suggestion(word: str, known: Sequence[str]) -> str:
    folded = {k.casefold(): k for k in known}
    found = difflib.get_close_matches(word.casefold(), list(folded), n=1)
    return f" (close: '{folded[found[0]]}')" if found else ""


class TableReader:
    """Cells of one table, and the errors found while parsing them."""

    def __init__(self, table: Path):
        self.table = table
        self.errors: list[RowError] = []
        self.header: list[str] = []
        self.lines: list[tuple[int, dict[str, str]]] = []

    def add_error(self, kind: str, row: int | None, text: str) -> None:
        """Records an error."""
        self.errors.append(RowError(kind, row, text))

    def load(self) -> None:
        """Reads the file; fills `header` and `lines` (row number, column -> cell)."""
        try:
            text = self.table.read_bytes().decode("utf-8-sig")
        except OSError as error:
            return self.add_error("table", None, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            return self.add_error("table", None, f"is not UTF-8 ({error})")
        first = text.lstrip().splitlines()[0] if text.strip() else ""
        semicolon = first.count(";") > first.count(",")
        stream = io.StringIO(text, newline=None)  # CR, LF and CRLF alike
        rows = enumerate(csv.reader(stream, delimiter=";" if semicolon else ","), 1)
        filled = [(n, [c.strip() for c in row]) for n, row in rows if any(row)]
        if len(filled) < 2:
            return self.add_error("table", None, "has no rows below a header")
        self.header = filled[0][1]
        for name in sorted({h for h in self.header if h and self.header.count(h) > 1}):
            self.add_error("column", 1, f"'{name}' occurs twice")
        for number, cells in filled[1:]:
            if len(cells) != len(self.header):
                text = f"{len(cells)} cells, the header has {len(self.header)}"
                self.add_error("number of cells", number, text)
                continue
            self.lines.append((number, dict(zip(self.header, cells, strict=True))))

    def rename(self, columns: Mapping[str, str]) -> None:
        """Gives columns their standard names; a missing one is recorded as an error.

        Args:
          columns: standard name -> name in the table. Another column that has the
            standard name is left out.
        """
        own = {theirs: name for name, theirs in columns.items() if theirs != name}
        for theirs, name in own.items():
            if self.header and theirs not in self.header:
                text = f"'{theirs}' (data.columns.{name}) is missing; there are "
                self.add_error("column", 1, text + ", ".join(self.header))
        kept = {h: own.get(h, h) for h in self.header if h in own or (
            h not in own.values()
        )}  # fmt: skip
        self.header = list(kept.values())
        self.lines = [
            (number, {name: cells[h] for h, name in kept.items()})
            for number, cells in self.lines
        ]

    def require(self, columns: Sequence[str]) -> None:
        """Records an error for each missing column."""
        if not self.header:
            return  # `load` has recorded why
        for name in columns:
            if name not in self.header:
                hint = _suggestion(name, self.header)
                text = f"'{name}' is missing; there are {', '.join(self.header)}{hint}"
                self.add_error("column", 1, text)

    def integer(self, number: int, name: str, cell: str) -> int | None:
        """Parses a biomarker; None where unknown or not an integer."""
        if unknown(cell):
            return None
        if not _INTEGER.fullmatch(cell):
            text = f"{name} is '{cell}'; expected an integer, or empty for unknown"
            self.add_error("biomarker not an integer", number, text)
            return None
        return int(cell.split(".")[0])

    def real(self, number: int, name: str, cell: str) -> float | None:
        """Parses a float marker; None where unknown or not a finite number."""
        if unknown(cell):
            return None
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            text = f"{name} is '{cell}'; expected a number, or empty for unknown"
            self.add_error("float marker not a number", number, text)
            return None
        return value

    def grade(self, number: int, cell: str, classes: tuple[str, ...]) -> int:
        """Maps a grade label to its class index; 0 for an unknown label."""
        if cell in classes:
            return classes.index(cell)
        hint = _suggestion(cell, classes)
        text = f"'{cell}'; the classes are {', '.join(classes)}{hint}"
        self.add_error("unknown grade", number, text)
        return 0

    def fold(self, number: int, cell: str) -> int | None:
        """Parses a fold number; None where invalid."""
        if cell.isascii() and cell.isdigit() and len(cell) < 6:
            return int(cell)
        text = f"'{cell}'; expected 0, 1, … on every row, or no column 'fold'"
        self.add_error("bad fold", number, text)
        return None
