"""Strict CSV reading: what every table is read with.

A quote that is never closed, or closed by another row's quote, would make rows part of
a cell. Such a file is an error, and nothing of it is used.
"""

import csv
import dataclasses
import io
from pathlib import Path

_UNKNOWN = {"", "na", "n/a", "nan"}


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
      path: UTF-8 with or without byte order mark; separated by commas, semicolons or
        tabs, of which its first line has most; lines end in LF, CR LF or CR.
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
    delimiter = max(",;\t", key=first.count)  # the first of equal ones
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
