"""Strict CSV reading: what every table is read with, and the cells of a cohort's.

A quote that is never closed, or closed by another row's quote, would make rows part of
a cell. Such a file is an error, and nothing of it is used.
"""

import csv
import dataclasses
import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fof_jax.data.errors import RowError

_UNKNOWN = {"", "na", "n/a", "nan"}
_INTEGER = re.compile(r"[+-]?\d{1,9}(\.0*)?")  # tables from pandas write 1 as 1.0


class TableError(ValueError):
    """A file that is not a table; the message does not name the file."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of a CSV file.

    Attributes:
      row: number of the row; the header is row 1, and blank lines count.
      line: line of the file that it starts on, from 1.
      cells: as they stand, with surrounding blanks.
    """

    row: int
    line: int
    cells: tuple[str, ...]


def read_records(path: Path, *, encoding_errors: str = "strict") -> list[Record]:
    """Reads a CSV file strictly.

    Args:
      path: UTF-8 with or without byte order mark; separated by commas, or by semicolons
        if its first line has more of these; lines end in LF, CR LF or CR.
      encoding_errors: what happens to bytes that are not UTF-8, see `bytes.decode`.

    Returns:
      The rows that are not blank, the header first; empty for a file without any.

    Raises:
      TableError: the file cannot be read or is not UTF-8; a quote is not closed or not
        followed by a separator; a cell takes in whole rows, or is longer than
        `csv.field_size_limit`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", encoding_errors)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TableError(f"is not UTF-8 ({error}). Save it as CSV UTF-8.") from None
    if "\0" in text:
        raise TableError("holds NUL characters, no text. Save it as CSV UTF-8.")
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    delimiter = ";" if first.count(";") > first.count(",") else ","
    lines = list(io.StringIO(text, newline=""))  # CR, LF and CRLF alike
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    records: list[Record] = []
    start = 0  # lines before the row that is read
    try:
        for number, cells in enumerate(reader, 1):
            if any(cell.strip() for cell in cells):
                records.append(Record(number, start + 1, tuple(cells)))
                width = len(records[0].cells)
                for taken in range(start + 1, reader.line_num):
                    if lines[taken].count(delimiter) >= width - 1:
                        raise TableError(
                            f"line {start + 1}: a quoted cell takes in line "
                            f"{taken + 1}, which looks like a row. Close the quote, or "
                            "double it where it is part of the text."
                        )
            start = reader.line_num
    except csv.Error as error:
        raise TableError(
            f"line {start + 1}: not CSV ({error}). Close the quote of its cell, or "
            "double it where it is part of the text."
        ) from None
    return records


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

    def load(self, *, encoding_errors: str = "strict") -> None:
        """Reads the file; fills `header` and `lines` (row number, column -> cell)."""
        try:
            records = read_records(self.table, encoding_errors=encoding_errors)
        except TableError as error:
            return self.add_error("table", None, str(error))
        if len(records) < 2:
            return self.add_error("table", None, "has no rows below a header")
        self.header = [cell.strip() for cell in records[0].cells]
        for name in sorted({h for h in self.header if h and self.header.count(h) > 1}):
            self.add_error("column", 1, f"'{name}' occurs twice")
        for record in records[1:]:
            cells = [cell.strip() for cell in record.cells]
            if len(cells) != len(self.header):
                text = f"{len(cells)} cells, the header has {len(self.header)}"
                self.add_error("number of cells", record.row, text)
                continue
            named = dict(zip(self.header, cells, strict=True))
            self.lines.append((record.row, named))

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
