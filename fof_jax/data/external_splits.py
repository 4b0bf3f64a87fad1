"""Folds that others have drawn: the PNAS table, and split pickles."""

import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
# Of the columns that vary. Raw, 43 of 80 hold whole numbers; standardised, none but
# one that happens to have mean 0 and deviation 1.
_WHOLE = 0.2


def read_pnas(path: Path | str) -> dict[str, tuple[bool, ...]]:
    """Reads the table of Mobadersany et al. (PNAS 2018) as it is.

    Its lines end in CR and its first header cell is empty; a column a randomisation,
    a row a patient, cells `Train` and `Test`.

    Args:
      path: `pnas_splits.csv` of Pathomic Fusion's distribution.

    Returns:
      Patient -> True for each randomisation that tests the patient.

    Raises:
      MissingDataError: there is no such file.
      CohortError: a cell is neither Train nor Test, a row is of another length, a
        patient is there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"{path} does not exist. It is the {PNAS_FILE} of Pathomic Fusion's "
            "distribution: put it into data.raw_dir, or pass "
            "--config.data.splits_file=FILE."
        )
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    rows = list(csv.reader(io.StringIO(text, newline=None)))  # CR, LF and CRLF alike
    width = len(rows[0]) if rows else 0
    table: dict[str, tuple[bool, ...]] = {}
    errors = []
    if len(rows) < 2 or width < 2:
        errors.append(RowError("table", None, "has no rows of Train and Test"))
    for number, row in enumerate(rows[1:], 2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != width:
            text = f"{len(cells)} cells, the header has {width}"
            errors.append(RowError("number of cells", number, text))
        elif cells[0] in table:
            errors.append(RowError("same patient twice", number, cells[0]))
        elif strange := sorted({*cells[1:]} - {"Train", "Test"}):
            text = f"{cells[0]}: {shortened(strange)}"
            errors.append(RowError("neither Train nor Test", number, text))
        else:
            table[cells[0]] = tuple(cell == "Test" for cell in cells[1:])
    raise_errors(path, errors)
    return table


def pnas_folds(metadata: Metadata, path: Path | str) -> Folds:
    """The randomisations of `read_pnas` as folds of a table, by patient.

    Args:
      metadata: regions of TCGA patients.
      path: the table of the randomisations.

    Returns:
      (train, test) positions, a pair a randomisation; all regions are in each.

    Raises:
      CohortError: patients of the table are not in the file.
    """
    table = read_pnas(path)
    absent = sorted(set(metadata.patients) - table.keys())
    if absent:
        text = f"{len(absent)} of this cohort's patients: {shortened(absent)}"
        raise_errors(path, [RowError("not in the file", None, text)])
    tested = np.array([table[patient] for patient in metadata.patients])
    return tuple((np.flatnonzero(~t), np.flatnonzero(t)) for t in tested.T)


def pickle_folds(metadata: Metadata, path: Path | str) -> Folds:
    """The folds of a split pickle: Pathomic Fusion's, or the FoF release's.

    Images are found by file name; where a pickle has none of this table's, but has
    patients (512-pixel crops, extracted features), by patient.

    Args:
      metadata: regions of TCGA patients.
      path: a pickle with `cv_splits` or `splits`; read by `read_pickle`.

    Returns:
      (train, test) positions, a pair a fold.

    Warns:
      DataWarning: regions of the table that no fold has, names that the table does
        not have, omics that are z-scores.

    Raises:
      PickleError: the file is refused, not of this form, or has none of the images.
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
    if told := zscored([side.get("x_omic") for side, _ in sides]):
        warnings.warn(f"{path}: {told}", DataWarning, stacklevel=2)
    return folds


def zscored(omics: Sequence[Any]) -> str:
    """Tells whether molecular data have been standardised.

    Raw markers have columns of whole numbers (statuses, copy numbers); after
    standardisation none has, unless it is constant.

    Args:
      omics: a matrix of values [n, columns] a training part; others are skipped.

    Returns:
      A sentence for the user; empty where they are raw or there are none.
    """
    matrices = [m for m in omics if isinstance(m, np.ndarray) and m.dtype.kind == "f"]
    matrices = [m for m in matrices if m.ndim == 2 and m.size]
    if not matrices:
        return ""
    values = matrices[0]
    varied = values[:, values.std(axis=0) > 0]
    whole = (varied == np.round(varied)).all(axis=0)
    if not varied.size or whole.mean() >= _WHOLE:
        return ""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    return (
        f"x_omic is z-scored: of {varied.shape[1]} columns that vary {whole.sum()} "
        f"hold whole numbers (first training part: means {mean.min():.2f} to "
        f"{mean.max():.2f}, deviations up to {spread.max():.2f}). It is not used: "
        "biomarkers are the raw ones of all_dataset.csv."
    )


def _ids(side: Any) -> dict[str, list[str]]:
    """File names and patients of one side of a fold, either may be empty."""
    paths, patients = side.get("x_path"), side.get("x_patname")
    if paths is None and patients is None:
        raise KeyError("x_path")
    images = []
    if paths is not None and not (isinstance(paths, np.ndarray) and paths.ndim > 1):
        images = [str(name).replace("\\", "/").rpartition("/")[2] for name in paths]
    names = [] if patients is None else [str(name) for name in patients]
    return {"images": images, "patients": names}


def _positions(ours: tuple[str, ...], wanted: list[str]) -> np.ndarray:
    listed = set(wanted)
    found = [i for i, o in enumerate(ours) if o.rpartition("/")[2] in listed]
    return np.array(found, int)


def _report(path, metadata: Metadata, folds: Folds, ours, wanted) -> None:
    used = set(np.concatenate([side for pair in folds for side in pair]).tolist())
    left = [name for i, name in enumerate(metadata.images) if i not in used]
    if left:
        warnings.warn(
            f"{path}: {len(left)} of {len(metadata)} regions are in no fold of it and "
            f"are left out: {shortened(left)}",
            DataWarning,
            stacklevel=3,
        )
    known = {name.rpartition("/")[2] for name in ours}
    strangers = sorted({name for names in wanted for name in names} - known)
    if strangers:
        warnings.warn(
            f"{path}: {len(strangers)} of its names are not in this table: "
            f"{shortened(strangers)}",
            DataWarning,
            stacklevel=3,
        )
