"""Bags of the study, in memory."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from fof_jax.data.bags import padding
from fof_jax.data.bags.reading import BagValues
from fof_jax.data.cohort import read_cohort
from fof_jax.types import Batch

CLASSES = ("0", "1", "2")


@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """A cohort in memory.

    Attributes:
      values, masks: of each bag.
      grade, biomarkers, known, fold: of each bag.
      patient: number of each bag's patient; names are not published.
      names: of the biomarkers.
    """

    values: list[BagValues]
    masks: list[np.ndarray]
    grade: np.ndarray
    biomarkers: np.ndarray
    known: np.ndarray
    fold: np.ndarray
    patient: np.ndarray
    names: tuple[str, ...]

    def batch(
        self, rows: np.ndarray, length: int, rng: np.random.Generator | None = None
    ) -> Batch:
        """Bags padded to a length, sampled down to it by `rng`."""
        chosen = []
        for i in rows:
            one = self.values[i]
            if rng is not None and len(one.features) > length:
                at = np.sort(rng.choice(len(one.features), length, replace=False))
                one = BagValues(one.features[at], one.coords[at])
            chosen.append(one)
        return Batch(
            image=None,
            bag=padding.pad(chosen, length),
            grade=self.grade[rows],
            biomarkers=self.biomarkers[rows],
            known=self.known[rows],
            index=rows.astype(np.int32),
            epoch=np.zeros(len(rows), np.int32),
            valid=np.ones(len(rows), bool),
        )


def read(table: Path) -> Bags:
    """All bags of a table of `data bags`."""
    with table.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    known = ("image", "patient", "grade", "fold", "mask")
    names = tuple(name for name in header if name not in known)
    cohort = read_cohort(
        table, classes=CLASSES, biomarkers=names, biomarkers_per="region"
    )
    index = cohort.bags
    if index is None or not index.has_mask.all():
        raise ValueError(f"{table}: expected HDF5 files with masks, of `data bags`.")
    patients = sorted({row.patient for row in cohort.rows})
    number = {name: i for i, name in enumerate(patients)}
    markers = [row.biomarkers for row in cohort.rows]
    return Bags(
        values=[index.read(i) for i in range(len(index))],
        masks=[np.asarray(index.read_mask(i), bool) for i in range(len(index))],
        grade=np.array([row.grade for row in cohort.rows], np.int32),
        biomarkers=np.array(
            [[0 if v is None else v for v in row] for row in markers], np.int32
        ).reshape(len(markers), len(names)),
        known=np.array([[v is not None for v in row] for row in markers], bool).reshape(
            len(markers), len(names)
        ),
        fold=np.array([row.fold for row in cohort.rows]),
        patient=np.array([number[row.patient] for row in cohort.rows]),
        names=names,
    )
