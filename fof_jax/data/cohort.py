"""Reads, validates and writes cohort tables (CSV).

Columns `image`, `patient`, `grade`, one per biomarker (integer; empty, NA, N/A or NaN
means unknown), one per float marker, and optionally `fold` (integer from 0) and `mask`.
Other columns are ignored. `image` names images, or HDF5 files of patch features, whose
slides an optional column `slide` names. UTF-8 with or without byte order mark, comma,
semicolon or tab.
"""

import collections
import csv
import dataclasses
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from fof_jax import files
from fof_jax.data import labels
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import (
    SHOWN,
    CohortError,
    DataWarning,
    RowError,
    check_choice,
    raise_errors,
    shortened,
)
from fof_jax.data.file_checks import Progress, check_bags, check_images, holds_bags
from fof_jax.data.records import Cohort, Row
from fof_jax.data.words import parse
from fof_jax.tables import patients
from fof_jax.tables.csv_records import unknown

__all__ = [
    "Cohort",
    "CohortError",
    "Progress",
    "Row",
    "check_images",
    "read_cohort",
    "write_cohort",
]

# Whether the images of a patient must have the same biomarkers.
BIOMARKER_UNITS = ("patient", "region")
UNGRADED = ("error", "skip")  # rows without a known grade


def _row(reader: TableReader, number: int, cells: dict[str, str], empty: Cohort) -> Row:
    """Parses one row; `reader` collects errors, `empty` has the names and the root."""
    for name in ("image", "patient"):
        if name in cells and not cells[name]:
            reader.add_error("empty cell", number, f"no {name}")
    if (patient := cells.get("patient", "")) and unknown(patient):
        text = f"'{patient}'; expected an ID of its own for each patient"
        reader.add_error("unknown patient", number, text)
    root = Path(empty.root or "")
    mask, slide = cells.get("mask", ""), cells.get("slide", "")
    grade = 0
    if "grade" in cells:
        grade = reader.grade(number, cells["grade"], empty.classes)
    return Row(
        image=root / cells.get("image", ""),
        patient=cells.get("patient", ""),
        grade=grade,
        biomarkers=tuple(
            reader.integer(number, name, cells.get(name, ""))
            for name in empty.biomarkers
        ),
        floats=tuple(
            reader.real(number, name, cells.get(name, ""))
            for name in empty.float_markers
        ),
        omics=tuple(
            reader.real(number, name, cells.get(name, "")) for name in empty.omics
        ),
        fold=reader.fold(number, cells["fold"]) if "fold" in cells else None,
        mask=None if unknown(mask) else root / mask,
        slide=None if unknown(slide) else root / slide,
    )


def _duplicates(cohort: Cohort) -> list[RowError]:
    """Finds images that occur in two rows, and patients with two spellings."""
    errors: list[RowError] = []
    first_rows: dict[str, int] = {}
    for number, row in zip(cohort.lines, cohort.rows, strict=True):
        path = os.path.realpath(row.image)
        if path in first_rows:
            text = f"{cohort.name_of(row)} is already in row {first_rows[path]}"
            errors.append(RowError("same image twice", number, text))
        first_rows.setdefault(path, number)
    named = [row.patient for row in cohort.rows]
    for group in patients.spellings(named):
        rows = ", ".join(f"row {cohort.lines[named.index(one)]}" for one in group[:3])
        text = (
            f"{patients.describe(group)} ({rows}). A split by patient would take them "
            "for different ones: write one ID"
        )
        errors.append(RowError("patient in two spellings", None, text))
    return errors


def _inconsistencies(cohort: Cohort) -> list[RowError]:
    """Finds patients whose images have different biomarkers."""
    errors: list[RowError] = []
    sets: dict[str, tuple[int, Row]] = {}
    for number, row in zip(cohort.lines, cohort.rows, strict=True):
        earlier, first = sets.setdefault(row.patient, (number, row))
        pairs = zip(cohort.biomarkers, first.biomarkers, row.biomarkers, strict=True)
        differ = [
            f"{name} {_shown(a)} and {_shown(b)}" for name, a, b in pairs if a != b
        ]
        if differ and row.patient:
            text = (
                f"{row.patient}: {', '.join(differ)} (first in row {earlier}); if they "
                "are measured per image, pass --config.data.biomarkers_per=region"
            )
            errors.append(RowError("patient with two sets of biomarkers", number, text))
    return errors


def _shown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def read_cohort(
    table: Path | str,
    *,
    classes: tuple[str, ...],
    biomarkers: tuple[str, ...],
    float_markers: tuple[str, ...] = (),
    omics: tuple[str, ...] = (),
    biomarkers_per: str = "patient",
    columns: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
    ungraded: str = "error",
    patch_size: float | None = None,
    root: Path | str | None = None,
    threads: int = 2,
    progress: Progress | None = None,
    decode: bool = True,
) -> Cohort:
    """Reads a cohort table and validates it, including its image files.

    Args:
      table: the CSV file.
      classes: allowed labels of the column `grade`, compared as strings; their order
        gives the class indices.
      biomarkers: integer columns; may be empty.
      float_markers: float columns; may be empty.
      omics: float columns of the molecular vector; may be empty.
      biomarkers_per: one of BIOMARKER_UNITS. "patient": different values within a
        patient are an error; "region": each image has its own.
      columns: names in the table of `image`, `patient`, `grade`, `fold` and `mask`,
        where they differ.
      words: what words of the markers' columns mean, see `words.parse`.
      ungraded: one of UNGRADED: what a row without a known grade is.
      patch_size: side of a patch in level-0 pixels, for HDF5 files that state none.
      root: folder that image and mask paths are relative to; the table's if None.
      threads: number of image files checked in parallel.
      progress: called with (done, total) after each image.
      decode: whether files are read; False checks the table only.

    Returns:
      The rows in table order; with an index of HDF5 files, if they were read.

    Warns:
      DataWarning: rows that are left out, as they have no grade.

    Raises:
      CohortError: validation failed; lists all errors by kind and row.
      ValueError: no such `biomarkers_per` or `ungraded`, or words of another form.
    """
    check_choice("ungraded", ungraded, UNGRADED)
    check_choice("biomarkers_per", biomarkers_per, BIOMARKER_UNITS)
    if len(set(classes)) != len(classes) or not classes:
        raise CohortError(f"data.classes must be distinct labels; got {classes}")
    table = Path(table)
    root = table.parent if root is None else Path(root)
    empty = Cohort((), classes, biomarkers, float_markers, root, omics=omics)
    skip = ungraded == "skip"
    reader = _read_table(table, empty, columns=columns or {}, words=words, skip=skip)
    cohort = dataclasses.replace(
        empty,
        rows=tuple(_row(reader, *line, empty) for line in reader.lines),
        lines=tuple(number for number, _ in reader.lines),
    )
    _name_labels(reader, classes)
    errors = reader.errors
    if "image" in reader.header:
        with_image = _with_image(cohort, reader)
        errors += _duplicates(with_image)
        if biomarkers_per == "patient":
            errors += _inconsistencies(with_image)
        if decode and holds_bags(with_image):
            bag_errors, bags = check_bags(
                with_image, patch_size=patch_size, threads=threads, progress=progress
            )
            errors += bag_errors
            cohort = dataclasses.replace(cohort, bags=bags)
        elif decode:
            errors += check_images(with_image, threads=threads, progress=progress)
    raise_errors(table, errors)
    return cohort


def _read_table(
    table: Path,
    empty: Cohort,
    *,
    columns: Mapping[str, str],
    words: Sequence[str],
    skip: bool,
) -> TableReader:
    """Reads the cells: columns renamed and required, words translated.

    Args:
      table, columns, words: as in `read_cohort`.
      empty: has the names of the markers' columns.
      skip: whether rows without a known grade are left out, with a warning.
    """
    reader = TableReader(table)
    reader.load()
    reader.rename(columns)
    markers = (*empty.biomarkers, *empty.float_markers, *empty.omics)
    reader.require(("image", "patient", "grade", *markers))
    meaning = parse(words)
    reader.translate(markers, meaning)
    if skip and (rows := reader.skip_unknown("grade", meaning)):
        warnings.warn(
            f"{len(rows)} row{'s' * (len(rows) > 1)} without a grade left out "
            "(data.ungraded=skip): "
            f"{shortened([f'row {number}' for number in rows])}",
            DataWarning,
            stacklevel=3,
        )
    return reader


def _with_image(cohort: Cohort, reader: TableReader) -> Cohort:
    """The rows whose cell `image` is not empty."""
    named = [k for k, (_, cells) in enumerate(reader.lines) if cells["image"]]
    return dataclasses.replace(
        cohort,
        rows=tuple(cohort.rows[k] for k in named),
        lines=tuple(cohort.lines[k] for k in named),
    )


def _name_labels(reader: TableReader, classes: tuple[str, ...]) -> None:
    """Adds the labels that the table has, with the flag to paste, to unknown grades."""
    cells = [cells.get("grade", "") for _, cells in reader.lines]
    counts = collections.Counter(cell for cell in cells if not unknown(cell))
    present = sorted(counts)
    if set(present) <= set(classes):
        return
    listed = shortened([f"'{name}' ({counts[name]})" for name in present])
    paste = ""
    if 2 <= len(present) <= SHOWN:
        paste = f". If these are the classes: {labels.flag('classes', tuple(present))}"
    reader.add_error("labels of this table", None, f"{listed}{paste}")


def write_cohort(path: Path | str, cohort: Cohort) -> None:
    """Writes a cohort as a CSV table, the inverse of `read_cohort`.

    Args:
      path: the CSV file; image paths below its folder are written relative to it.
      cohort: rows to write.
    """
    path = Path(path)
    folder = dataclasses.replace(cohort, root=path.parent)
    with_fold = any(row.fold is not None for row in cohort.rows)
    with_mask = any(row.mask is not None for row in cohort.rows)
    header = ["image", "patient", "grade", *cohort.biomarkers, *cohort.float_markers]
    header += cohort.omics
    header += ["fold"] * with_fold + ["mask"] * with_mask
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in cohort.rows:
        cells: list[object] = [
            folder.name_of(row),
            row.patient,
            cohort.classes[row.grade],
            *row.biomarkers,
            *row.floats,
            *row.omics,
        ]
        cells += [row.fold] * with_fold
        if with_mask:
            as_image = dataclasses.replace(row, image=row.mask) if row.mask else None
            cells.append(folder.name_of(as_image) if as_image else None)
        writer.writerow(cells)  # None becomes an empty cell
    files.write_text(path, stream.getvalue())
