"""Writes the images of a store to files again, for cohorts that are made of them."""

import shutil
from pathlib import Path

import numpy as np

from fof_jax.data.cohort import Cohort, Row, write_cohort
from fof_jax.data.store import Store

TABLE = "table.csv"


def write_images(data: Store, folder: Path) -> Cohort:
    """Writes table.csv and the images as they are stored, under their own names.

    Masks are left out.

    Args:
      data: of images.
      folder: created, whole or not at all.

    Returns:
      The cohort of the table. A store built of it has the `table_hash` of `data`, so
      that splits of one are splits of the other.

    Raises:
      ValueError: an image whose name is no path below a folder; or patch features.
    """
    for name in data.images:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                f"store: {name} does not lie below the table that the store was built "
                "of. Build it of a table whose images lie below it."
            )
    staging = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    for i, name in enumerate(data.images):
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encoded(i))
    write_cohort(staging / TABLE, _cohort(data, staging))
    staging.rename(folder)
    return _cohort(data, folder)


def _cohort(data: Store, root: Path) -> Cohort:
    rows = tuple(
        Row(
            image=root / name,
            patient=data.patients[i],
            grade=int(data.grades[i]),
            biomarkers=tuple(
                int(value) if known else None
                for value, known in zip(
                    data.biomarker_values[i], data.known[i], strict=True
                )
            ),
            floats=_reals(data.floats[i]),
            fold=None if data.folds is None else int(data.folds[i]),
            omics=() if data.omics is None else _reals(data.omics[i]),
        )
        for i, name in enumerate(data.images)
    )
    return Cohort(
        rows,
        data.classes,
        data.biomarkers,
        data.float_markers,
        root,
        omics=data.omic_names,
    )


def _reals(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(v) else float(v) for v in values)
