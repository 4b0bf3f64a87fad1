"""Finds the input images of `predict` and `explain`: a file, a folder or a table."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from fof_jax.data import patients
from fof_jax.data.csv_reader import TableReader, unknown
from fof_jax.data.errors import raise_errors
from fof_jax.inference.names import printable, unique

# Whole-slide formats; pyramidal TIFFs are recognized by their pages.
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *SLIDES)
# Unsupported image formats: reported as rows with an error, not silently skipped.
_UNSUPPORTED = (".bmp", ".gif", ".webp", ".jp2", ".heic", ".czi")
_EXPECTED = (
    "Pass an image, a folder of images, or a CSV with a column 'image' (relative to "
    "the CSV) and optional columns 'patient' and 'grade'."
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
    """

    path: Path
    name: str
    patient: str
    grade: str = ""


def find(source: Path, *, exclude: Path | None = None) -> list[ImageInput]:
    """Lists the images of a file, a folder or a table, in order.

    Args:
      source: an image; a folder, searched recursively; or a CSV with a column `image`
        (relative to the CSV) and optional columns `patient` and `grade`.
      exclude: a folder to skip, such as the output folder.

    Raises:
      ValueError: the source does not exist, cannot be read or has no images; a table
        without the column `image`, or with an empty or repeated cell in it.
    """
    if source.is_dir():
        paths = sorted(_walk(source, exclude))
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
        return _read_table(source)
    name = printable(source.name)
    return [ImageInput(source, name, name)]


def _walk(folder: Path, exclude: Path | None) -> Iterator[Path]:
    def raise_unreadable(error: OSError) -> None:
        raise ValueError(
            f"images: the folder {error.filename} cannot be read ({error.strerror}). "
            "Change its permissions, or list the images in a CSV."
        )

    excluded = exclude.resolve() if exclude is not None else None
    for parent, folders, files in os.walk(folder, onerror=raise_unreadable):
        # MIRAX stores a slide's data, which includes JPEGs, in a folder of its name.
        mirax = {Path(name).stem for name in files if name.lower().endswith(".mrxs")}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in mirax
            and (Path(parent) / name).resolve() != excluded
        ]
        for name in files:
            if name.lower().endswith((*SUFFIXES, *_UNSUPPORTED)) and name[0] != ".":
                yield Path(parent) / name


def _read_table(table: Path) -> list[ImageInput]:
    reader = TableReader(table)
    reader.load()
    reader.require(("image",))
    images = []
    first_row: dict[str, int] = {}
    for number, cells in reader.lines if "image" in reader.header else ():
        name, grade = cells["image"], cells.get("grade", "")
        patient = cells.get("patient", "")
        if not name:
            reader.add_error("empty cell", number, "no image")
        elif name in first_row:
            text = f"{name} is already in row {first_row[name]}: twice"
            reader.add_error("same image twice", number, text)
        first_row.setdefault(name, number)
        images.append(
            ImageInput(
                path=table.parent / name,
                name=printable(name),
                patient=printable(name if unknown(patient) else patient),
                grade="" if unknown(grade) else grade,
            )
        )
    named = (one.patient for one in images if one.patient != one.name)
    for group in patients.spellings(named):
        text = f"{patients.describe(group)}: write one ID"
        reader.add_error("patient in two spellings", None, text)
    raise_errors(table, reader.errors)
    return images
