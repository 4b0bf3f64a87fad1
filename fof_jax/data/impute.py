"""Float markers that were not measured: filled, and said."""

import dataclasses
import warnings

import numpy as np

from fof_jax.data.errors import CohortError, DataWarning
from fof_jax.data.store import Store


def fill_floats(store: Store) -> Store:
    """The store with each gap of a float marker filled by the marker's median.

    A loss that compares float markers has no use for a gap, and dropping the region
    would take its grade and biomarkers too. The median over patients, of whom each
    counts once, is what the data of the authors' code hold (docs/parity.md, 28).
    Float markers are read in training only, so no prediction depends on it.

    Args:
      store: `floats` NaN where unknown.

    Returns:
      A store with the same table hash and finite `floats`.

    Warns:
      DataWarning: how many gaps a marker has, and what stands in them.

    Raises:
      CohortError: a marker that is unknown in every region.
    """
    floats = store.floats.copy()
    told = []
    for column, name in zip(floats.T, store.float_markers, strict=True):
        gaps = np.isnan(column)
        if gaps.all():
            raise CohortError(
                f"data.float_markers: {name} is unknown in all {len(store)} regions; "
                "expected a value in some. Leave it out of --config.data.float_markers."
            )
        if not gaps.any():
            continue
        patients = np.array(store.patients)[~gaps]
        _, first = np.unique(patients, return_index=True)
        median = np.median(column[~gaps][first])
        column[gaps] = median  # a view of `floats`
        told.append(f"{name} in {gaps.sum()} of {len(store)} regions ({median:.4g})")
    if not told:
        return store
    warnings.warn(
        "unknown float markers take the median over patients: " + ", ".join(told),
        DataWarning,
        stacklevel=2,
    )
    filled = dataclasses.replace(store, floats=floats)
    filled.__dict__["table_hash"] = store.table_hash  # it is still that table
    return filled
