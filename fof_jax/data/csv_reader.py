"""Cells of a cohort table: all errors are collected instead of raising the first."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fof_jax.data import words
from fof_jax.data.errors import RowError
from fof_jax.tables.csv_records import TableError, read_records, unknown

_INTEGER = re.compile(r"[+-]?\d{1,9}(\.0*)?")  # tables from pandas write 1 as 1.0


def _suggestion(word: str, known: Sequence[str]) -> str:
    folded = {k.casefold(): k for k in known}
    matches = difflib.get_close_matches(word.casefold(), list(folded), n=1)
    return f" (close: '{folded[matches[0]]}')" if matches else ""


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
        names = {theirs: name for name, theirs in columns.items() if theirs != name}
        for theirs, name in names.items():
            if self.header and theirs not in self.header:
                text = f"'{theirs}' (data.columns.{name}) is missing; there are "
                self.add_error("column", 1, text + ", ".join(self.header))
        kept = {h: names.get(h, h) for h in self.header if h in names or (
            h not in names.values()
        )}  # fmt: skip
        self.header = list(kept.values())
        self.lines = [
            (number, {name: cells[h] for h, name in kept.items()})
            for number, cells in self.lines
        ]

    def translate(self, columns: Sequence[str], meaning: Mapping[str, str]) -> None:
        """Writes integers in the place of words.

        Args:
          columns: those to change, by standard name.
          meaning: of `words.parse`.
        """
        if meaning:
            self.lines = [
                (number, cells | {
                    name: words.replaced(cells[name], meaning)
                    for name in columns if name in cells
                })
                for number, cells in self.lines
            ]  # fmt: skip

    def skip_unknown(self, column: str, meaning: Mapping[str, str]) -> list[int]:
        """Leaves out rows whose cell is unknown, if the table has the column.

        Args:
          column: by standard name.
          meaning: of `words.parse`.

        Returns:
          numbers of the rows that are left out.
        """
        kept = [
            (number, cells)
            for number, cells in self.lines
            if column not in cells or not words.is_unknown(cells[column], meaning)
        ]
        numbers = {number for number, _ in kept}
        left_out = [number for number, _ in self.lines if number not in numbers]
        self.lines = kept
        return left_out

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
            text = (
                f"{name} is '{cell}'; expected an integer, empty for unknown, or a "
                "word that data.words gives an integer"
            )
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
