"""Median imputation of missing float markers."""

import dataclasses
import warnings

import numpy as np

from fof_jax.data.errors import CohortError, DataWarning
from fof_jax.data.store import Store


def fill_floats(store: Store) -> Store:
    """Replaces missing float markers by the marker's median over patients.

    A loss that compares float markers cannot use missing values, and dropping the
    region would lose its grade and biomarkers too. The median counts each patient
    once, as in the data of the authors' code (docs/parity.md, 28). Float markers are
    used in training only, so no prediction depends on the imputation.

    Args:
      store: `floats` NaN where unknown.

    Returns:
      A store with the same table hash and finite `floats`.

    Warns:
      DataWarning: number of missing values per marker, and the imputed value.

    Raises:
      CohortError: a marker is unknown in every region.
    """
    floats = store.floats.copy()
    imputed = []
    for column, name in zip(floats.T, store.float_markers, strict=True):
        missing = np.isnan(column)
        if missing.all():
            raise CohortError(
                f"data.float_markers: {name} is unknown in all {len(store)} regions; "
                "expected a value in some. Leave it out of --config.data.float_markers."
            )
        if not missing.any():
            continue
        patients = np.array(store.patients)[~missing]
        _, first = np.unique(patients, return_index=True)
        median = np.median(column[~missing][first])
        column[missing] = median  # a view of `floats`
        imputed.append(
            f"{name} in {missing.sum()} of {len(store)} regions ({median:.4g})"
        )
    if not imputed:
        return store
    warnings.warn(
        "missing float markers are set to the median over patients: "
        + ", ".join(imputed),
        DataWarning,
        stacklevel=2,
    )
    return dataclasses.replace(store, floats=floats, original_hash=store.table_hash)
