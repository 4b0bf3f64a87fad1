"""What the authors' code makes of a biomarker column before it becomes a label (Q27).

Their data file is z-scored upstream and read with `.long()`, so a label is a truncated
z-score: of a binary marker that is mostly 1, wild type becomes -1 and altered 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TRANSFORMS = ("raw", "zscore_trunc")


def fit(
    columns: Int[np.ndarray, "n N"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of every column, for `transform`.

    Args:
      columns: status per training record and biomarker, gaps filled.

    Returns:
      means, stds; the std of a constant column is 1.
    """
    stds = columns.std(axis=0)
    stds = np.where(stds > 0, stds, 1.0)
    return tuple(map(float, columns.mean(axis=0))), tuple(map(float, stds))


def transform(
    columns: Int[Array, "B N"],
    *,
    name: str,
    means: tuple[float, ...] = (),
    stds: tuple[float, ...] = (),
) -> Int[Array, "B N"]:
    """Integer status to integer labels (Q27).

    Args:
      columns: status per record and biomarker.
      name: "raw" leaves it as it is; "zscore_trunc" is (status - mean) / std with its
        fraction cut off towards 0.
      means, stds: of every column, see `fit`; only zscore_trunc reads them.

    Raises:
      ValueError: another name, or not one mean and std a column.
    """
    check(name=name, means=means, stds=stds, num_biomarkers=columns.shape[1])
    if name == "raw":
        return columns
    z: Float[Array, "B N"] = (columns - jnp.asarray(means)[None]) / jnp.asarray(stds)[
        None
    ]
    return jax.lax.convert_element_type(jnp.trunc(z), columns.dtype)


def check(
    *, name: str, means: tuple[float, ...], stds: tuple[float, ...], num_biomarkers: int
) -> None:
    """Refuses what `transform` cannot use.

    Raises:
      ValueError: see `transform`.
    """
    if name not in TRANSFORMS:
        raise ValueError(
            f"data.label_transform: {name!r} does not exist. Expected one of "
            f"{', '.join(TRANSFORMS)}."
        )
    if name == "raw":
        return
    if not len(means) == len(stds) == num_biomarkers or min(stds, default=1) <= 0:
        raise ValueError(
            f"data.label_transform: {name!r} needs a mean and a positive standard "
            f"deviation for each of {num_biomarkers} biomarkers, got {len(means)} "
            f"means and {len(stds)} deviations. Fit them on the training records, or "
            "pass --config.data.label_transform=raw."
        )
