"""Which images a file, a folder or a table names, for a model to look at."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from fof_jax.data.csv_reader import TableReader, unknown
from fof_jax.data.errors import raise_faults

# Whole slides in files of their own kind; a pyramid in a TIFF shows by its pages.
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *SLIDES)
# Not read, but meant as images: rows with a reason rather than silence.
_FOREIGN = (".bmp", ".gif", ".webp", ".jp2", ".heic", ".czi")
_EXPECTED = (
    "Pass an image, a folder of images, or a CSV with a column 'image' (relative to "
    "the CSV) and perhaps 'patient' and 'grade'."
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """An image to be looked at.

    Attributes:
      path: of the file.
      name: in tables: relative to the folder, or as the table has it.
      patient: whose it is; its own name where nothing says.
      grade: the truth, a class name; "" where unknown.
    """

    path: Path
    name: str
    patient: str
    grade: str = ""


def find(source: Path, *, without: Path | None = None) -> list[Asked]:
    """The images that a file, a folder or a table names, in order.

    Args:
      source: an image; a folder, searched with the folders below; or a CSV with a
        column `image` (relative to the CSV) and perhaps `patient` and `grade`.
      without: a folder that is passed over, such as that of the results.

    Raises:
      ValueError: it does not exist, cannot be read or names no image; a table without
        `image`, with an empty cell there, or with an image twice.
    """
    if source.is_dir():
        found = sorted(_below(source, without))
        if not found:
            raise ValueError(
                f"images: {source} holds no {', '.join(SUFFIXES)}. {_EXPECTED}"
            )
        names = [path.relative_to(source).as_posix() for path in found]
        return [Asked(p, n, n) for p, n in zip(found, names, strict=True)]
    if not source.exists():
        raise ValueError(f"images: {source} does not exist. {_EXPECTED}")
    if source.suffix.lower() == ".csv":
        return _from_table(source)
    return [Asked(source, source.name, source.name)]


def _below(folder: Path, without: Path | None) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(
            f"images: the folder {error.filename} cannot be read ({error.strerror}). "
            "Mend its permissions, or list the images in a CSV."
        )

    passed = without.resolve() if without is not None else None
    for here, folders, files in os.walk(folder, onerror=refuse):
        # MIRAX keeps a slide's data in a folder beside it, as JPEGs among others.
        beside = {Path(name).stem for name in files if name.lower().endswith(".mrxs")}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in beside
            and (Path(here) / name).resolve() != passed
        ]
        for name in files:
            if name.lower().endswith((*SUFFIXES, *_FOREIGN)) and name[0] != ".":
                yield Path(here) / name


def _from_table(table: Path) -> list[Asked]:
    reader = TableReader(table)
    reader.load()
    reader.need(("image",))
    asked = []
    seen: dict[str, int] = {}
    for number, cells in reader.lines if "image" in reader.header else ():
        name, grade = cells["image"], cells.get("grade", "")
        if not name:
            reader.fault("empty cell", number, "no image")
        elif name in seen:
            text = f"{name} is already in row {seen[name]}: twice"
            reader.fault("same image twice", number, text)
        seen.setdefault(name, number)
        asked.append(
            Asked(
                path=table.parent / name,
                name=name,
                patient=cells.get("patient") or name,
                grade="" if unknown(grade) else grade,
            )
        )
    raise_faults(table, reader.faults)
    return asked
