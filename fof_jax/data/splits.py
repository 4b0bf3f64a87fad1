"""Creates, writes and reads cross-validation splits."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax import files
from fof_jax.data.errors import DataWarning, shortened
from fof_jax.data.metadata import Folds, Metadata

SCHEMES = ("patient", "roi", "fold", "pnas15", "pickle")
EXTERNAL_SCHEMES = ("pnas15", "pickle")  # of `data.external_splits`


class SplitError(ValueError):
    """A split that is impossible, or a file of another table."""


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Folds of one table.

    Attributes:
      scheme: one of `SCHEMES`.
      seed: of the shuffle; unused by `fold`, `pnas15` and `pickle`.
      table_hash: hash of the table that the positions index.
      folds: sorted (train, test) positions, one pair per fold.
      images: image name of each position.
      validation: sorted positions that were taken from the training positions of each
        fold (`data.validation`); () without validation.
    """

    scheme: str
    seed: int
    table_hash: str
    folds: Folds
    images: tuple[str, ...]
    validation: tuple[np.ndarray, ...] = ()


def make_splits(
    metadata: Metadata, *, scheme: str = "patient", folds: int = 5, seed: int = 42
) -> Splits:
    """Splits a table into folds.

    `patient` is stratified by grade and grouped by patient. `roi` is the release's
    rule, KFold over regions in table order, which puts regions of one patient on both
    sides. `fold` follows the column `fold`. `pnas15` and
    `pickle` take the externally defined `metadata.external_folds`, all of them.

    Args:
      metadata: of a store or a cohort.
      scheme: one of `SCHEMES`.
      folds: number of folds; ignored for external folds.
      seed: of the shuffle.

    Returns:
      The splits; except for external folds, every region is tested exactly once.

    Warns:
      DataWarning: a class has fewer patients than there are folds.

    Raises:
      SplitError: the table does not allow such a split.
    """
    if scheme not in SCHEMES:
        raise SplitError(
            f"data.scheme={scheme!r}: expected one of {', '.join(SCHEMES)}"
        )
    n, patients = len(metadata), np.array(metadata.patients)
    if scheme in EXTERNAL_SCHEMES:
        return Splits(
            scheme,
            seed,
            metadata.table_hash,
            _external(metadata, scheme),
            metadata.images,
        )
    units = len(set(metadata.patients)) if scheme == "patient" else n
    if scheme != "fold" and not 2 <= folds <= units:
        unit = "patients" if scheme == "patient" else "regions"
        raise SplitError(
            f"folds={folds} with {units} {unit}: expected 2 … {units}. "
            "Set --config.folds."
        )
    if scheme == "fold":
        tests = _own_folds(metadata, folds)
    elif scheme == "roi":
        from sklearn.model_selection import KFold

        rule = KFold(folds, shuffle=True, random_state=seed)
        tests = [test for _, test in rule.split(np.arange(n))]
    else:
        from sklearn.model_selection import StratifiedGroupKFold

        _check_strata(metadata, folds)
        grouped = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # sklearn counts regions, not patients; _check_strata has warned already.
            warnings.filterwarnings("ignore", "The least populated class")
            pairs = grouped.split(np.zeros(n), metadata.grades, patients)
            tests = [test for _, test in pairs]
    for k, test in enumerate(tests):
        if not 0 < len(test) < n:
            raise SplitError(
                f"Fold {k} of {len(tests)} would test {len(test)} of {n} regions: "
                "there are too few patients. Set --config.folds lower."
            )
    every = np.arange(n)
    pairs_of = tuple((np.setdiff1d(every, test), np.sort(test)) for test in tests)
    return Splits(scheme, seed, metadata.table_hash, pairs_of, metadata.images)


def _external(metadata: Metadata, scheme: str) -> Folds:
    if metadata.external_folds is None:
        required = {
            "pnas15": "pnas_splits.csv in data.raw_dir, or --config.data.splits_file",
            "pickle": "a split pickle in --config.data.splits_file",
        }
        raise SplitError(f"data.scheme={scheme!r} requires {required[scheme]}.")
    for k, (train, test) in enumerate(metadata.external_folds):
        if not (len(train) and len(test)):
            raise SplitError(
                f"Fold {k} of the {len(metadata.external_folds)} external folds has "
                f"{len(train)} training and {len(test)} test regions of this table; "
                "expected at least one of each. "
                "Set another --config.data.scheme."
            )
    return metadata.external_folds


def _own_folds(metadata: Metadata, folds: int) -> list[np.ndarray]:
    if metadata.folds is None:
        raise SplitError(
            "data.scheme='fold' requires a column 'fold' in the table; it has none. "
            "Add it and build again, or set --config.data.scheme=patient."
        )
    present = sorted(set(metadata.folds.tolist()))
    if present != list(range(folds)):
        raise SplitError(
            f"The column 'fold' holds {shortened([str(f) for f in present])}; "
            f"expected 0 … {folds - 1}, because folds={folds}. Set --config.folds."
        )
    return [np.flatnonzero(metadata.folds == k) for k in present]


def _check_strata(metadata: Metadata, folds: int) -> None:
    patients = {
        label: len({p for p, g in zip(metadata.patients, metadata.grades, strict=True)
                    if g == k})
        for k, label in enumerate(metadata.classes)
    }  # fmt: skip
    few = [f"{label}: {count}" for label, count in patients.items() if count < folds]
    regions = np.bincount(metadata.grades, minlength=len(metadata.classes))
    if regions.max() < folds:
        raise SplitError(
            f"folds={folds}, and no class has as many regions ({regions.tolist()} of "
            f"{', '.join(metadata.classes)}). Set --config.folds lower."
        )
    if few:
        warnings.warn(
            f"Fewer patients than the {folds} folds in class {shortened(few)}: some "
            "folds test or train without it.",
            DataWarning,
            stacklevel=3,
        )


def leak_share(splits: Splits, patients: tuple[str, ...]) -> float:
    """Fraction of test regions, over all folds, whose patient is also in training.

    Args:
      splits: the folds.
      patients: patient ID of each region, in table order.

    Returns:
      0 for a split by patient; about 0.69 for `roi` on TCGA GBM-LGG.
    """
    owner = np.array(patients)
    leaked = [np.isin(owner[test], owner[train]) for train, test in splits.folds]
    return float(np.concatenate(leaked).mean())


def _side(metadata: Metadata, rows: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(metadata.grades[rows], minlength=len(metadata.classes))
    return {
        "regions": len(rows),
        "patients": len({metadata.patients[i] for i in rows}),
        "classes": dict(zip(metadata.classes, counts.tolist(), strict=True)),
        "images": [metadata.images[i] for i in rows],
    }


def write_splits(path: Path | str, splits: Splits, metadata: Metadata) -> None:
    """Writes splits as JSON: scheme, seed, table hash, and images and counts per fold.

    With validation rows each fold has a third part, `validation`.

    Args:
      path: the file to write.
      splits: splits of `metadata`.
      metadata: provides patients and grades.

    Raises:
      SplitError: `splits` belongs to another table.
    """
    _same_table(str(path), splits.table_hash, metadata)
    document: dict[str, Any] = {
        "scheme": splits.scheme,
        "seed": splits.seed,
        "table_hash": splits.table_hash,
        "leak_share": leak_share(splits, metadata.patients),
        "folds": [
            {"fold": k, "train": _side(metadata, train), "test": _side(metadata, test)}
            for k, (train, test) in enumerate(splits.folds)
        ],
    }
    for fold, rows in zip(document["folds"], splits.validation, strict=False):
        fold["validation"] = _side(metadata, rows)
    files.write_text(Path(path), json.dumps(document, indent=1) + "\n")


def _same_table(path: str, table_hash: object, metadata: Metadata) -> None:
    if table_hash != metadata.table_hash:
        raise SplitError(
            f"{path} belongs to another table (hash {str(table_hash)[:12]}, the "
            f"store has {metadata.table_hash[:12]}): images, patients, grades, markers "
            "or folds have changed. Use a new workdir, or go back to the old table."
        )


def read_splits(path: Path | str, metadata: Metadata) -> Splits:
    """Reads splits and checks that they belong to the table and do not leak.

    Args:
      path: a file from `write_splits`.
      metadata: the table, usually a store.

    Returns:
      The splits.

    Raises:
      SplitError: the file is missing, malformed or of another table; an image is on
        both sides, or, under `patient` and `pnas15`, a patient is.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        scheme, seed = document["scheme"], document["seed"]
        table_hash = document["table_hash"]
        sides = ["train", "test"]
        sides += ["validation"] * any("validation" in f for f in document["folds"])
        listed = [
            [fold[side]["images"] for side in sides] for fold in document["folds"]
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"{path} cannot be read: {error}") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SplitError(
            f"{path} is not a file of splits ({type(error).__name__}: {error}). "
            "Remove it to create it again."
        ) from None
    _same_table(str(path), table_hash, metadata)
    position = {name: i for i, name in enumerate(metadata.images)}
    unknown = [n for pair in listed for side in pair for n in side
                 if n not in position]  # fmt: skip
    if unknown:
        raise SplitError(f"{path}: not in the table: {shortened(unknown)}")
    rows = [[np.array([position[n] for n in names], int) for names in fold]
            for fold in listed]  # fmt: skip
    folds = tuple((train, test) for train, test, *_ in rows)
    validation = tuple(part for _, _, *third in rows for part in third)
    splits = Splits(scheme, seed, table_hash, folds, metadata.images, validation)
    _check_leaks(str(path), splits, metadata)
    return splits


def _check_leaks(path: str, splits: Splits, metadata: Metadata) -> None:
    by_patient = splits.scheme in ("patient", "pnas15")
    pairs = [(k, *pair, by_patient) for k, pair in enumerate(splits.folds)]
    for k, rows in enumerate(splits.validation):
        train, test = splits.folds[k]
        pairs += [(k, train, rows, True), (k, rows, test, by_patient)]
    for k, train, test, patients in pairs:
        both = [metadata.images[i] for i in np.intersect1d(train, test)]
        what = "images"
        if not both and patients:
            sides = [{metadata.patients[i] for i in side} for side in (train, test)]
            both, what = sorted(sides[0] & sides[1]), "patients"
        if both:
            raise SplitError(
                f"{path}: fold {k} has {len(both)} {what} on both sides: "
                f"{shortened(both)}. Remove the file to create it again."
            )
