"""Reads, validates and writes cohort tables (CSV).

Columns `image`, `patient`, `grade`, one per biomarker (integer; empty, NA, N/A or NaN
means unknown), one per float marker, and optionally `fold` (integer from 0) and `mask`.
Other columns are ignored. UTF-8 with or without byte order mark, comma or semicolon.
"""

import collections
import csv
import dataclasses
import io
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fof_jax import files
from fof_jax.data import images, labels
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import (
    SHOWN,
    CohortError,
    RowError,
    raise_errors,
    shortened,
)
from fof_jax.tables import patients
from fof_jax.tables.csv_records import unknown

__all__ = [
    "Cohort",
    "CohortError",
    "Row",
    "check_images",
    "read_cohort",
    "write_cohort",
]

Progress = Callable[[int, int], None]  # (done, total)
# Whether the images of a patient must have the same biomarkers.
BIOMARKER_UNITS = ("patient", "region")


@dataclasses.dataclass(frozen=True)
class Row:
    """One image region with its labels.

    Attributes:
      image: image file.
      patient: patient ID.
      grade: class index.
      biomarkers: integer status of each biomarker, None where unknown.
      floats: value of each float marker, None where unknown.
      fold: fold number of the column `fold`, or None.
      mask: ground-truth mask of the diagnostic structures (phantom only), or None.
      omics: molecular features, None where unknown.
    """

    image: Path
    patient: str
    grade: int
    biomarkers: tuple[int | None, ...] = ()
    floats: tuple[float | None, ...] = ()
    fold: int | None = None
    mask: Path | None = None
    omics: tuple[float | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A validated table.

    Attributes:
      rows: in table order.
      classes: grade labels; `Row.grade` indexes them.
      biomarkers: names, in the order of `Row.biomarkers`.
      float_markers: names, in the order of `Row.floats`.
      root: folder that image names are relative to.
      lines: row number in the table of each of `rows`.
      omics: names, in the order of `Row.omics`.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    biomarkers: tuple[str, ...] = ()
    float_markers: tuple[str, ...] = ()
    root: Path | None = None
    lines: tuple[int, ...] = ()
    omics: tuple[str, ...] = ()

    def name_of(self, row: Row) -> str:
        """Name of an image: its path relative to `root`, stable if the cohort moves."""
        if self.root is not None:
            image, root = os.path.abspath(row.image), os.path.abspath(self.root)
            if image.startswith(root + os.sep):
                return Path(image).relative_to(root).as_posix()
        return row.image.as_posix()


def _row(reader: TableReader, number: int, cells: dict[str, str], empty: Cohort) -> Row:
    """Parses one row; `reader` collects errors, `empty` has the names and the root."""
    for name in ("image", "patient"):
        if name in cells and not cells[name]:
            reader.add_error("empty cell", number, f"no {name}")
    if (patient := cells.get("patient", "")) and unknown(patient):
        text = f"'{patient}'; expected an ID of its own for each patient"
        reader.add_error("unknown patient", number, text)
    root, mask = Path(empty.root or ""), cells.get("mask", "")
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
    )


def _duplicates(cohort: Cohort) -> list[RowError]:
    """Finds images that occur in two rows, and patients with two spellings."""
    errors: list[RowError] = []
    seen: dict[str, int] = {}
    for number, row in zip(cohort.lines, cohort.rows, strict=True):
        path = os.path.realpath(row.image)
        if path in seen:
            text = f"{cohort.name_of(row)} is already in row {seen[path]}"
            errors.append(RowError("same image twice", number, text))
        seen.setdefault(path, number)
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


def check_images(
    cohort: Cohort, *, threads: int = 2, progress: Progress | None = None
) -> list[RowError]:
    """Decodes every image and mask completely.

    Args:
      cohort: rows whose files are checked.
      threads: number of files decoded in parallel.
      progress: called with (done, total) after each image.

    Returns:
      Errors: files that are missing, unreadable, truncated or not supported by
      `fof_jax.data.images`, and masks whose size differs from their image's.
    """

    def check(row: Row) -> tuple[str, str] | None:
        try:
            region = images.check_region(row.image)
            if row.mask is None:
                return None
            mask = images.check_mask(row.mask)
        except images.ImageError as error:
            return error.kind, str(error)
        if (mask.height, mask.width) == (region.height, region.width):
            return None
        return "mask of another size", (
            f"{row.mask.name} is {mask.width}x{mask.height}, "
            f"its image {region.width}x{region.height}"
        )

    errors = []
    lines = cohort.lines or range(2, len(cohort.rows) + 2)
    with images.quiet_decoding(), ThreadPoolExecutor(threads) as pool:
        results = zip(lines, pool.map(check, cohort.rows), strict=True)
        for done, (number, result) in enumerate(results, 1):
            if result is not None:
                errors.append(RowError(result[0], number, result[1]))
            if progress is not None:
                progress(done, len(cohort.rows))
    return errors


def read_cohort(
    table: Path | str,
    *,
    classes: tuple[str, ...],
    biomarkers: tuple[str, ...],
    float_markers: tuple[str, ...] = (),
    omics: tuple[str, ...] = (),
    biomarkers_per: str = "patient",
    columns: Mapping[str, str] | None = None,
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
      root: folder that image and mask paths are relative to; the table's if None.
      threads: number of image files checked in parallel.
      progress: called with (done, total) after each image.
      decode: whether image files are decoded; False checks the table only.

    Returns:
      The rows in table order.

    Raises:
      CohortError: validation failed; lists all errors by kind and row.
      ValueError: no such `biomarkers_per`.
    """
    if biomarkers_per not in BIOMARKER_UNITS:
        raise ValueError(
            f"data.biomarkers_per={biomarkers_per!r}: expected one of "
            f"{', '.join(BIOMARKER_UNITS)}"
        )
    table = Path(table)
    root = table.parent if root is None else Path(root)
    if len(set(classes)) != len(classes) or not classes:
        raise CohortError(f"data.classes must be distinct labels; got {classes}")
    reader = TableReader(table)
    reader.load()
    reader.rename(columns or {})
    reader.require(("image", "patient", "grade", *biomarkers, *float_markers, *omics))
    empty = Cohort((), classes, biomarkers, float_markers, root, omics=omics)
    cohort = dataclasses.replace(
        empty,
        rows=tuple(
            _row(reader, number, cells, empty) for number, cells in reader.lines
        ),
        lines=tuple(number for number, _ in reader.lines),
    )
    _name_labels(reader, classes)
    errors = reader.errors
    if "image" in reader.header:
        named = [k for k, (_, cells) in enumerate(reader.lines) if cells["image"]]
        with_image = dataclasses.replace(
            cohort,
            rows=tuple(cohort.rows[k] for k in named),
            lines=tuple(cohort.lines[k] for k in named),
        )
        errors += _duplicates(with_image)
        if biomarkers_per == "patient":
            errors += _inconsistencies(with_image)
        if decode:
            errors += check_images(with_image, threads=threads, progress=progress)
    raise_errors(table, errors)
    return cohort


def _name_labels(reader: TableReader, classes: tuple[str, ...]) -> None:
    """Adds the labels that the table has, with the flag to paste, to unknown grades."""
    cells = [cells.get("grade", "") for _, cells in reader.lines]
    counts = collections.Counter(cell for cell in cells if not unknown(cell))
    found = sorted(counts)
    if set(found) <= set(classes):
        return
    listed = shortened([f"'{name}' ({counts[name]})" for name in found])
    paste = ""
    if 2 <= len(found) <= SHOWN:
        paste = f". If these are the classes: {labels.flag('classes', tuple(found))}"
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
        ]
        cells += [row.fold] * with_fold
        if with_mask:
            as_image = dataclasses.replace(row, image=row.mask) if row.mask else None
            cells.append(folder.name_of(as_image) if as_image else None)
        writer.writerow(cells)  # None becomes an empty cell
    files.write_text(path, stream.getvalue())
