"""Statistics of a training fold that standardize the patch features of bags."""

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import column_statistics
from fof_jax.data.bags.index import BagIndex
from fof_jax.types import Params

MOST_BAGS = 1000  # read for the statistics


def fold_constants(
    config: ConfigDict, index: BagIndex | None, train_rows: np.ndarray
) -> Params:
    """`frozen` of a method on bags; {} for images and without `bags.standardize`.

    Args:
      config: of the run.
      index: of the store; None for images.
      train_rows: positions of the training bags of the fold.

    Returns:
      {"features": {"mean", "std"}}, float32 [D] each, over all patches of the training
      bags, of `MOST_BAGS` evenly spaced ones where there are more.
    """
    # Config files of earlier versions lack the field.
    if index is None or not config.bags.get("standardize", False):
        return {}
    rows = np.sort(train_rows)
    read = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_BAGS)).astype(int)]
    statistics = column_statistics.measure(index.read(int(i)).features for i in read)
    return {"features": statistics._asdict()}
