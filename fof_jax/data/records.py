"""Records of a cohort: rows with their labels, and the table that they form."""

import dataclasses
import os
from pathlib import Path

from fof_jax.data.bags.index import BagIndex


@dataclasses.dataclass(frozen=True)
class Row:
    """One image region with its labels.

    Attributes:
      image: image file, or HDF5 file of patch features.
      patient: patient ID.
      grade: class index.
      biomarkers: integer status of each biomarker, None where unknown.
      floats: value of each float marker, None where unknown.
      fold: fold number of the column `fold`, or None.
      mask: ground-truth mask of the diagnostic structures (phantom only), or None.
      omics: molecular features, None where unknown.
      slide: file of the slide whose patch features `image` holds, or None.
    """

    image: Path
    patient: str
    grade: int
    biomarkers: tuple[int | None, ...] = ()
    floats: tuple[float | None, ...] = ()
    fold: int | None = None
    mask: Path | None = None
    omics: tuple[float | None, ...] = ()
    slide: Path | None = None


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
      bags: index of the files, where they hold patch features; None for images.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    biomarkers: tuple[str, ...] = ()
    float_markers: tuple[str, ...] = ()
    root: Path | None = None
    lines: tuple[int, ...] = ()
    omics: tuple[str, ...] = ()
    bags: BagIndex | None = None

    def name_of(self, row: Row) -> str:
        """Name of an image: its path relative to `root`, stable if the cohort moves."""
        if self.root is not None:
            image, root = os.path.abspath(row.image), os.path.abspath(self.root)
            if image.startswith(root + os.sep):
                return Path(image).relative_to(root).as_posix()
        return row.image.as_posix()
