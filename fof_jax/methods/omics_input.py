"""Checks and masking of the omics vectors of a batch, for every row that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fof_jax.methods.base import Inputs
from fof_jax.types import Batch


def require(batch: Batch, *, row: str, inputs: Inputs, partly: bool = False) -> None:
    """Checks that a batch has what a row needs for a prediction.

    Values are only read where they are concrete; inside a compiled step the shapes are
    checked and the caller is expected to have checked the values.

    Args:
      batch: rows with `valid` False are not checked.
      row: name of the method in messages.
      inputs: of the method.
      partly: whether a patient without any known omics entry is accepted.

    Raises:
      ValueError: the omics are missing, have unequal shapes, or a patient has no known
        entry.

    Source: methods/fusion.md "ddm", step 2, for the row that imputes.
    """
    needs = " and ".join(inputs.test)
    if batch.omics is None:
        raise ValueError(
            f"{row}: the batch has no omics, expected float32 [B, M]. This row needs "
            f"{needs} for a prediction. Add the omics columns to the data, or choose a "
            "row that reads the image alone."
        )
    known = batch.omics_known
    if known is None:
        return
    if known.shape != batch.omics.shape:
        raise ValueError(
            f"{row}: omics_known has shape {known.shape}, expected "
            f"{batch.omics.shape}, the shape of omics."
        )
    if partly or isinstance(known, jax.core.Tracer):
        return
    if isinstance(batch.valid, jax.core.Tracer):
        return
    missing = np.asarray(batch.valid) & ~np.asarray(known).any(axis=1)
    if missing.any():
        raise ValueError(
            f"{row}: {int(missing.sum())} of {missing.size} patients have no omics at "
            f"all (records {np.asarray(batch.index)[missing].tolist()[:10]}). This row "
            f"needs {needs} for a prediction. Leave these patients out, or use "
            "fusion.ddmnet, which imputes a missing modality."
        )


def masked(batch: Batch) -> Float[Array, "B M"]:
    """The standardized omics with 0, the training fold's mean, where unknown.

    Args:
      batch: with omics.

    Returns:
      the vectors; values under an unknown entry, NaN included, are ignored.

    Source: METHODS.md 1.2 (scaling), 1.4.
    """
    if batch.omics_known is None:
        return jnp.asarray(batch.omics)
    return jnp.where(jnp.asarray(batch.omics_known), batch.omics, 0.0)


def known_rows(batch: Batch) -> Bool[Array, " B"]:
    """Rows with at least one known omics entry.

    Args:
      batch: with omics.

    Returns:
      a boolean for each row; all True without `omics_known`.

    Source: methods/fusion.md "ddm" (`known`).
    """
    if batch.omics_known is None:
        return jnp.ones((batch.omics.shape[0],), bool)
    return jnp.asarray(batch.omics_known).any(axis=1)
