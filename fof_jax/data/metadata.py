"""Cohort metadata as arrays: names, patients, grades, markers, folds."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.data.cohort import Cohort
from fof_jax.types import DatasetInfo

Folds = tuple[tuple[np.ndarray, np.ndarray], ...]  # (train, test) row positions


@dataclasses.dataclass(frozen=True, eq=False)
class Metadata:
    """Metadata of the n images of a cohort, in table order.

    Attributes:
      classes: the K grade labels.
      biomarkers: names of the N biomarkers.
      float_markers: names of the F float markers.
      images: one name per image, its path in the table.
      patients: patient ID of each image.
      grades: class index, 0 … K-1.
      biomarker_values: integer status, 0 where unknown.
      known: True where the biomarker was measured.
      floats: float markers, NaN where unknown.
      folds: fold numbers of the table's column `fold`, or None.
      omic_names: names of the O molecular features; may be empty.
      omics: raw molecular features, input of some methods; NaN where unknown.
      external_folds: externally defined splits, or None.
      original_hash: `table_hash` of the table from which a selection of markers or
        imputation derived this one; None if it is not derived.
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
    external_folds: Folds | None = dataclasses.field(default=None, kw_only=True)
    original_hash: str | None = dataclasses.field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def table_hash(self) -> str:
        """SHA-256 of all columns; identifies the table of a store and its splits."""
        if self.original_hash is not None:
            return self.original_hash
        return hashlib.sha256(json.dumps(to_json(self)).encode()).hexdigest()


def dataset_info(metadata: Metadata) -> DatasetInfo:
    """Names and biomarker values, as methods need them to be built."""
    return DatasetInfo(
        classes=metadata.classes,
        biomarkers=metadata.biomarkers,
        float_markers=metadata.float_markers,
        omic_names=metadata.omic_names,
        biomarker_values=metadata.biomarker_values,
    )


def from_cohort(cohort: Cohort) -> Metadata:
    """Converts the rows of a cohort to arrays.

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
    return Metadata(
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


M = TypeVar("M", bound=Metadata)


def select_floats(metadata: M, names: tuple[str, ...]) -> M:
    """Keeps the float markers of these names, in this order, and the table hash."""
    order = [metadata.float_markers.index(name) for name in names]
    return dataclasses.replace(
        metadata,
        float_markers=names,
        floats=metadata.floats[:, order],
        original_hash=metadata.table_hash,
    )


def to_json(metadata: Metadata) -> dict[str, Any]:
    """Converts metadata to JSON values; unknown values become null."""
    values, known = metadata.biomarker_values.tolist(), metadata.known.tolist()
    omics = {}
    if metadata.omics is not None:  # absent otherwise, so that older hashes stay valid
        omics = {
            "omic_names": list(metadata.omic_names),
            "omics": [
                [None if np.isnan(v) else v for v in row]
                for row in metadata.omics.tolist()
            ],
        }
    return {
        "classes": list(metadata.classes),
        "biomarkers": list(metadata.biomarkers),
        "float_markers": list(metadata.float_markers),
        "images": list(metadata.images),
        "patients": list(metadata.patients),
        "grades": metadata.grades.tolist(),
        "biomarker_values": [
            [v if k else None for v, k in zip(vs, ks, strict=True)]
            for vs, ks in zip(values, known, strict=True)
        ],
        "floats": [
            [None if np.isnan(v) else v for v in row]
            for row in metadata.floats.tolist()
        ],
        "folds": None if metadata.folds is None else metadata.folds.tolist(),
        **omics,
    }


def fields_from_json(data: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_json`: keyword arguments for `Metadata`."""
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
