"""Omics of a training fold: the statistics that standardize them, and their check."""

import numpy as np

from fof_jax.data.metadata import Metadata
from fof_jax.methods.base import Inputs
from fof_jax.types import Params


def fold_constants(inputs: Inputs, data: Metadata, train_rows: np.ndarray) -> Params:
    """`frozen` of a method that reads omics; {} for one that does not.

    Args:
      inputs: of the method.
      data: with `omics` [n, M], NaN where unknown.
      train_rows: positions of the training regions of the fold.

    Returns:
      {"omics": {"mean", "std", "median"}}, float32 [M] each, over the known entries of
      the training patients, each patient counted once. A column that is constant or
      entirely unknown has standard deviation 1.
    """
    if not {"omics"} & {*inputs.train, *inputs.test}:
        return {}
    patients = np.asarray(data.patients)[train_rows]
    first = np.unique(patients, return_index=True)[1]
    values = np.asarray(data.omics, np.float64)[train_rows[np.sort(first)]]
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / count
    variance = np.where(known, (values - mean) ** 2, 0).sum(axis=0) / count
    std = np.sqrt(variance)
    median = [
        float(np.median(column[ok])) if ok.any() else 0.0
        for column, ok in zip(values.T, known.T, strict=True)
    ]
    statistics = {
        "mean": mean,
        "std": np.where(std > 0, std, 1.0),
        "median": np.array(median),
    }
    return {"omics": {k: v.astype(np.float32) for k, v in statistics.items()}}


def require_inputs(inputs: Inputs, data: Metadata, name: str) -> None:
    """Checks that a store has what a method reads.

    Args:
      inputs: of the method.
      name: of the method, for the message.

    Raises:
      ValueError: the method reads omics and the table has none; or a patient has no
        known omics entry.
    """
    if not {"omics"} & {*inputs.train, *inputs.test}:
        return
    if data.omics is None:
        raise ValueError(
            f"method {name!r} reads omics, and the table has no omics columns "
            "(data.omics). Name some, or use a method that reads images alone."
        )
    if "omics" not in inputs.test:
        return
    lacking = ~np.isfinite(data.omics).any(axis=1)
    if lacking.any():
        patients = sorted({data.patients[i] for i in np.flatnonzero(lacking)})
        raise ValueError(
            f"method {name!r} needs omics at test ({', '.join(inputs.test)}), "
            f"and {len(patients)} patients have no known entry: "
            f"{', '.join(patients[:5])}. Leave them out of the table, or use a method "
            "that needs the image alone."
        )
