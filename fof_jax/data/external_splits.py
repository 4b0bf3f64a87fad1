"""Reads externally defined splits: the PNAS table and split pickles."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import (
    DataWarning,
    MissingDataError,
    RowError,
    raise_errors,
    shortened,
)
from fof_jax.data.metadata import Folds, Metadata
from fof_jax.data.safe_pickle import PickleError, read_pickle

PNAS_FILE = "pnas_splits.csv"
# Minimum fraction of non-constant columns with integers in raw data. There it is 43 of
# 80; after standardization only a column with mean 0 and std 1 can have integers.
_MIN_INTEGER = 0.2


def read_pnas(path: Path | str) -> dict[str, tuple[bool, ...]]:
    """Reads the split table of Mobadersany et al. (PNAS 2018).

    One row per patient, one column per randomization, cells `Train` or `Test`; lines
    end in CR and the first header cell is empty.

    Args:
      path: `pnas_splits.csv` from the distribution of Pathomic Fusion.

    Returns:
      For each patient, True for each randomization that tests the patient.

    Raises:
      MissingDataError: the file does not exist.
      CohortError: a cell is neither Train nor Test, a row has another length, or a
        patient occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"{path} does not exist. It is the {PNAS_FILE} of Pathomic Fusion's "
            "distribution: put it into data.raw_dir, or pass "
            "--config.data.splits_file=FILE."
        )
    reader = TableReader(path)
    reader.load(encoding_errors="replace")
    if reader.header and len(reader.header) < 2:
        reader.add_error("table", None, "has no rows of Train and Test")
    table: dict[str, tuple[bool, ...]] = {}
    for number, cells in reader.lines:
        patient, *sides = cells.values()
        if patient in table:
            reader.add_error("same patient twice", number, patient)
        elif invalid := sorted({*sides} - {"Train", "Test"}):
            text = f"{patient}: {shortened(invalid)}"
            reader.add_error("neither Train nor Test", number, text)
        else:
            table[patient] = tuple(side == "Test" for side in sides)
    raise_errors(path, reader.errors)
    return table


def pnas_folds(metadata: Metadata, path: Path | str) -> Folds:
    """Converts the randomizations of `read_pnas` to folds, by patient.

    Args:
      metadata: regions of TCGA patients.
      path: `pnas_splits.csv`.

    Returns:
      (train, test) positions, one pair per randomization; each covers all regions.

    Raises:
      CohortError: a patient of the table is not in the file.
    """
    table = read_pnas(path)
    absent = sorted(set(metadata.patients) - table.keys())
    if absent:
        text = f"{len(absent)} of this cohort's patients: {shortened(absent)}"
        raise_errors(path, [RowError("not in the file", None, text)])
    tested = np.array([table[patient] for patient in metadata.patients])
    return tuple((np.flatnonzero(~t), np.flatnonzero(t)) for t in tested.T)


def pickle_folds(metadata: Metadata, path: Path | str) -> Folds:
    """Reads folds from a split pickle of Pathomic Fusion or the FoF release.

    Images are matched by file name; if none matches (512-pixel crops, extracted
    features), by patient.

    Args:
      metadata: regions of TCGA patients.
      path: a pickle with `cv_splits` or `splits`; loaded by `read_pickle`.

    Returns:
      (train, test) positions, one pair per fold.

    Warns:
      DataWarning: regions in no fold, names that are not in the table, omics that
        are z-scores.

    Raises:
      PickleError: the file is rejected, has another layout, or no matching image.
    """
    document = read_pickle(path)
    splits = None
    if isinstance(document, dict):
        splits = document.get("cv_splits", document.get("splits"))
    try:
        sides = [(fold["train"], fold["test"]) for fold in dict(splits or {}).values()]
        named = [[_ids(side) for side in pair] for pair in sides]
    except (TypeError, KeyError, ValueError, AttributeError):
        sides, named = [], []
    if not sides:
        raise PickleError(
            f"{path} is not a file of splits: expected a dict with 'cv_splits' "
            "(Pathomic Fusion) or 'splits' (the FoF release), and in each fold "
            "'train' and 'test' with 'x_path' or 'x_patname'."
        )
    owners = {"images": metadata.images, "patients": metadata.patients}
    for unit, ours in owners.items():
        folds = tuple(
            (_positions(ours, train[unit]), _positions(ours, test[unit]))
            for train, test in named
        )
        if all(len(side) for pair in folds for side in pair):
            break
    else:
        raise PickleError(
            f"{path} has folds without any of this table's images or patients. Is it "
            "of another cohort? Set --config.data.splits_file."
        )
    _report(path, metadata, folds, ours, [p[unit] for pair in named for p in pair])
    if message := zscored_message([side.get("x_omic") for side, _ in sides]):
        warnings.warn(f"{path}: {message}", DataWarning, stacklevel=2)
    return folds


def zscored_message(omics: Sequence[Any]) -> str:
    """Detects molecular data that have been standardized.

    Raw data have integer columns (mutation status, copy number); after
    standardization only constant columns are integers.

    Args:
      omics: one matrix [n, columns] per training set; anything else is skipped.

    Returns:
      A warning message; empty if the data are raw or absent.
    """
    matrices = [m for m in omics if isinstance(m, np.ndarray) and m.dtype.kind == "f"]
    matrices = [m for m in matrices if m.ndim == 2 and m.size]
    if not matrices:
        return ""
    values = matrices[0]
    varied = values[:, values.std(axis=0) > 0]
    integer = (varied == np.round(varied)).all(axis=0)
    if not varied.size or integer.mean() >= _MIN_INTEGER:
        return ""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    return (
        f"x_omic is z-scored: of {varied.shape[1]} columns that vary {integer.sum()} "
        f"hold integers (first training set: means {mean.min():.2f} to "
        f"{mean.max():.2f}, standard deviations up to {spread.max():.2f}). It "
        "is not used: biomarkers are the raw ones of all_dataset.csv."
    )


def _ids(side: Any) -> dict[str, list[str]]:
    """File names and patients of one side of a fold; either may be empty."""
    paths, patients = side.get("x_path"), side.get("x_patname")
    if paths is None and patients is None:
        raise KeyError("x_path")
    images = []
    if paths is not None and not (isinstance(paths, np.ndarray) and paths.ndim > 1):
        images = [str(name).replace("\\", "/").rpartition("/")[2] for name in paths]
    names = [] if patients is None else [str(name) for name in patients]
    return {"images": images, "patients": names}


def _positions(names: tuple[str, ...], listed: list[str]) -> np.ndarray:
    wanted = set(listed)
    positions = [i for i, n in enumerate(names) if n.rpartition("/")[2] in wanted]
    return np.array(positions, int)


def _report(path, metadata: Metadata, folds: Folds, ours, wanted) -> None:
    used = set(np.concatenate([side for pair in folds for side in pair]).tolist())
    left = [name for i, name in enumerate(metadata.images) if i not in used]
    if left:
        warnings.warn(
            f"{path}: {len(left)} of {len(metadata)} regions are in none of its folds "
            f"and are left out: {shortened(left)}",
            DataWarning,
            stacklevel=3,
        )
    known = {name.rpartition("/")[2] for name in ours}
    unknown = sorted({name for names in wanted for name in names} - known)
    if unknown:
        warnings.warn(
            f"{path}: {len(unknown)} of its names are not in this table: "
            f"{shortened(unknown)}",
            DataWarning,
            stacklevel=3,
        )
