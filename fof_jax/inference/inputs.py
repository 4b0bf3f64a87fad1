"""Finds the input images of `predict` and `explain`: a file, a folder or a table."""

import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import DataWarning, raise_errors
from fof_jax.inference.image_folder import SUFFIXES, is_output, list_images
from fof_jax.inference.names import listed, printable, stems, unique
from fof_jax.inference.table_form import TableForm
from fof_jax.tables import patients
from fof_jax.tables.csv_records import unknown

MPP_RANGE = (0.05, 10.0)  # of an image, in micrometers per pixel
_EXPECTED = (
    "Pass an image, a folder of images, or a CSV with a column 'image' (relative to "
    "the CSV) and optional columns 'patient', 'grade' and 'mpp'."
)


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """One input image.

    Attributes:
      path: of the file.
      name: in tables: relative to the folder, or as written in the input table; see
        `names.printable`.
      patient: patient ID; the image's name if there is none.
      grade: true class name; "" if unknown.
      omics: raw molecular vector, NaN where unknown, for a model that needs one.
      mpp: micrometers per pixel; None if unknown.
      slide: of a file of patch features, where the table names it.
    """

    path: Path
    name: str
    patient: str
    grade: str = ""
    omics: tuple[float, ...] | None = None
    mpp: float | None = None
    slide: Path | None = None

    @property
    def file_name(self) -> str:
        """Printable name of the file, for titles."""
        return printable(self.path.name)

    def error_line(self, error: object) -> str:
        """An error message in one line, without the file name, which the row has."""
        message = str(error).removeprefix(f"{self.path.name}: ")
        return printable(" ".join(message.split()))


def with_stems(images: Sequence[ImageInput]) -> list[tuple[ImageInput, str]]:
    """Each image with the stem of its output files, see `names.stems`."""
    return list(zip(images, stems([one.name for one in images]), strict=True))


def find(
    source: Path, *, exclude: Path | None = None, form: TableForm | None = None
) -> list[ImageInput]:
    """Lists the images of a file, a folder or a table, in order, each once.

    Args:
      source: an image; a folder, searched recursively; or a CSV with a column `image`
        (relative to the CSV) and optional columns `patient`, `grade` and `mpp`.
      exclude: a folder to skip, such as the output folder.
      form: column names and words of the run's table; None: the standard names.

    Warns:
      DataWarning: files and folders that are left out, see `image_folder`.

    Raises:
      ValueError: the source does not exist, cannot be read, has no images or is the
        output of a command; a table without the column `image`, or with an empty cell
        or the same image twice in it.
    """
    if source.is_dir() and is_output(source):
        raise ValueError(
            f"images: {source} is the output of an earlier command, and its pictures "
            f"are no images to grade. {_EXPECTED}"
        )
    if source.is_dir():
        paths, notices = list_images(source, exclude=exclude)
        for notice in notices:
            warnings.warn(f"{source}: {notice}", DataWarning, stacklevel=2)
        if not paths:
            raise ValueError(
                f"images: {source} holds no {', '.join(SUFFIXES)}. {_EXPECTED}"
            )
        below = [printable(path.relative_to(source).as_posix()) for path in paths]
        names = unique(below)
        return [ImageInput(p, n, n) for p, n in zip(paths, names, strict=True)]
    if not source.exists():
        raise ValueError(f"images: {source} does not exist. {_EXPECTED}")
    if source.suffix.lower() == ".csv":
        return read_table(source, form)
    name = printable(source.name)
    return [ImageInput(source, name, name)]


def with_omics(
    images: Sequence[ImageInput],
    source: Path,
    names: Sequence[str],
    method: str,
    form: TableForm | None = None,
) -> list[ImageInput]:
    """Adds the omics columns of a table to the images that `find` listed from it.

    Args:
      images: of `find(source)`.
      source: the CSV.
      names: columns that the model needs; `Predictor.omic_names`.
      method: name of the method, for messages.
      form: as in `find`.

    Raises:
      ValueError: the source is not a table, lacks columns, or has a cell that is not a
        number.
    """
    needs = f"images: method {method!r} needs {len(names)} omics columns"
    if source.is_dir() or source.suffix.lower() != ".csv":
        what = "a folder" if source.is_dir() else "an image"
        raise ValueError(
            f"{needs} beside the image, and {source} is {what}. Pass a CSV with a "
            f"column 'image' and the columns {listed(names)} (all of them: omics in "
            "the model.json of a fold), empty where unknown."
        )
    reader = (form or TableForm()).load(source, names)
    require_omics_columns(reader, names, method)
    vectors = []
    for number, cells in reader.lines:
        values = [reader.real(number, name, cells[name]) for name in names]
        vectors.append(tuple(math.nan if v is None else v for v in values))
    raise_errors(source, reader.errors)
    return [
        dataclasses.replace(image, omics=vector)
        for image, vector in zip(images, vectors, strict=True)
    ]


def require_omics_columns(
    reader: TableReader, names: Sequence[str], method: str
) -> None:
    """Checks that a loaded table has the omics columns of a model.

    Raises:
      ValueError: some are missing, and which.
    """
    lacking = [name for name in names if name not in reader.header]
    if reader.header and lacking:
        raise ValueError(
            f"images: {reader.table} lacks {len(lacking)} of the {len(names)} omics "
            f"columns that method {method!r} needs: {listed(lacking)}. Add them, "
            "empty where unknown."
        )


def read_table(table: Path, form: TableForm | None = None) -> list[ImageInput]:
    """The rows of a CSV as `find` lists them.

    Raises:
      ValueError: as there.
    """
    reader = (form or TableForm()).load(table)
    reader.require(("image",))
    images = []
    first_row: dict[str, int] = {}
    for number, cells in reader.lines if "image" in reader.header else ():
        name, grade = cells["image"], cells.get("grade", "")
        patient = cells.get("patient", "")
        if not name:
            reader.add_error("empty cell", number, "no image")
        elif (file := os.path.realpath(table.parent / name)) in first_row:
            text = f"{name} is already in row {first_row[file]}: twice"
            reader.add_error("same image twice", number, text)
        else:
            first_row[file] = number
        mpp = reader.real(number, "mpp", cells["mpp"]) if "mpp" in cells else None
        if mpp is not None and not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            low, high = MPP_RANGE
            text = f"{mpp:g}; expected {low:g} to {high:g} micrometers per pixel"
            reader.add_error("mpp out of range", number, text)
        slide = cells.get("slide", "")
        images.append(
            ImageInput(
                path=table.parent / name,
                name=printable(name),
                patient=printable(name if unknown(patient) else patient),
                grade="" if unknown(grade) else grade,
                mpp=mpp,
                slide=None if unknown(slide) else table.parent / slide,
            )
        )
    named = (one.patient for one in images if one.patient != one.name)
    for group in patients.spellings(named):
        text = f"{patients.describe(group)}: write one ID"
        reader.add_error("patient in two spellings", None, text)
    raise_errors(table, reader.errors)
    return images
