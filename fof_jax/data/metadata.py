"""The columns of a cohort as arrays, without its pixels."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.data.cohort import Cohort
from fof_jax.types import DatasetInfo


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """What a table says about its n images, in the table's order.

    Attributes:
      classes: the K grade labels.
      biomarkers: the N names.
      float_markers: the F names.
      images: a name an image: its path as the table has it.
      patients: a patient an image.
      grades: class index, 0 … K-1.
      biomarker_values: integer status, 0 where unknown.
      known: True where the biomarker was measured.
      floats: float markers, NaN where unknown.
      folds: the table's own fold numbers, or None.
      omic_names: the O columns of the molecular vector, or none.
      omics: that vector, raw, NaN where unknown: for methods that take it as input.
      given: folds that others drew for it, (train, test) positions, or None.
    """

    classes: tuple[str, ...]
    biomarkers: tuple[str, ...]
    float_markers: tuple[str, ...]
    images: tuple[str, ...]
    patients: tuple[str, ...]
    grades: Int[np.ndarray, " n"]
    biomarker_values: Int[np.ndarray, "n N"]
    known: Bool[np.ndarray, "n N"]
    floats: Float[np.ndarray, "n F"]
    folds: Int[np.ndarray, " n"] | None
    omic_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    omics: Float[np.ndarray, "n O"] | None = dataclasses.field(
        default=None, kw_only=True
    )
    given: tuple[tuple[np.ndarray, np.ndarray], ...] | None = dataclasses.field(
        default=None, kw_only=True
    )

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def table_hash(self) -> str:
        """SHA-256 of all columns: splits and stores say which table they are of."""
        return hashlib.sha256(json.dumps(to_json(self)).encode()).hexdigest()


def dataset_info(columns: Columns) -> DatasetInfo:
    """Names and biomarker values, from which a method is built."""
    return DatasetInfo(
        classes=columns.classes,
        biomarkers=columns.biomarkers,
        float_markers=columns.float_markers,
        omic_names=columns.omic_names,
        biomarker_values=columns.biomarker_values,
    )


def from_cohort(cohort: Cohort) -> Columns:
    """Arranges a cohort's rows as columns.

    Args:
      cohort: rows with names relative to its root.

    Returns:
      Arrays in the order of the rows.
    """
    rows = cohort.rows
    shape = (len(rows), len(cohort.biomarkers))
    values = [[0 if v is None else v for v in row.biomarkers] for row in rows]
    known = [[v is not None for v in row.biomarkers] for row in rows]
    floats = [[np.nan if v is None else v for v in row.floats] for row in rows]
    with_fold = bool(rows) and all(row.fold is not None for row in rows)
    return Columns(
        classes=cohort.classes,
        biomarkers=cohort.biomarkers,
        float_markers=cohort.float_markers,
        images=tuple(cohort.name_of(row) for row in rows),
        patients=tuple(row.patient for row in rows),
        grades=np.array([row.grade for row in rows], np.int32),
        biomarker_values=np.array(values, np.int32).reshape(shape),
        known=np.array(known, bool).reshape(shape),
        floats=np.array(floats, np.float32).reshape(
            len(rows), len(cohort.float_markers)
        ),
        folds=np.array([row.fold for row in rows], np.int32) if with_fold else None,
        omic_names=cohort.omics,
        omics=_reals([row.omics for row in rows], len(cohort.omics)),
    )


def _reals(rows: Sequence[Sequence[float | None]], width: int) -> np.ndarray | None:
    if not width:
        return None
    filled = [[np.nan if v is None else v for v in row] for row in rows]
    return np.array(filled, np.float32).reshape(len(rows), width)


def to_json(columns: Columns) -> dict[str, Any]:
    """The columns as JSON values; unknown becomes null."""
    values, known = columns.biomarker_values.tolist(), columns.known.tolist()
    vector = {}
    if columns.omics is not None:  # a table without it keeps its hash
        vector = {
            "omic_names": list(columns.omic_names),
            "omics": [
                [None if np.isnan(v) else v for v in row]
                for row in columns.omics.tolist()
            ],
        }
    return {
        "classes": list(columns.classes),
        "biomarkers": list(columns.biomarkers),
        "float_markers": list(columns.float_markers),
        "images": list(columns.images),
        "patients": list(columns.patients),
        "grades": columns.grades.tolist(),
        "biomarker_values": [
            [v if k else None for v, k in zip(vs, ks, strict=True)]
            for vs, ks in zip(values, known, strict=True)
        ],
        "floats": [
            [None if np.isnan(v) else v for v in row] for row in columns.floats.tolist()
        ],
        "folds": None if columns.folds is None else columns.folds.tolist(),
        **vector,
    }


def fields_from_json(data: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_json`: keyword arguments for `Columns`."""
    n = len(data["images"])
    values, floats = data["biomarker_values"], data["floats"]
    return {
        "classes": tuple(data["classes"]),
        "biomarkers": tuple(data["biomarkers"]),
        "float_markers": tuple(data["float_markers"]),
        "images": tuple(data["images"]),
        "patients": tuple(data["patients"]),
        "grades": np.array(data["grades"], np.int32),
        "biomarker_values": np.array(
            [[0 if v is None else v for v in row] for row in values], np.int32
        ).reshape(n, len(data["biomarkers"])),
        "known": np.array(
            [[v is not None for v in row] for row in values], bool
        ).reshape(n, len(data["biomarkers"])),
        "floats": np.array(
            [[np.nan if v is None else v for v in row] for row in floats], np.float32
        ).reshape(n, len(data["float_markers"])),
        "folds": None if data["folds"] is None else np.array(data["folds"], np.int32),
        "omic_names": tuple(data.get("omic_names", ())),
        "omics": _reals(data.get("omics", ()), len(data.get("omic_names", ()))),
    }
