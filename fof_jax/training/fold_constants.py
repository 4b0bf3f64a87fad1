"""Constants of a training fold: statistics that standardize inputs, and labels."""

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.store import Store
from fof_jax.methods.base import Inputs
from fof_jax.training import bag_features, cell_graphs, omics
from fof_jax.types import Params


def measure(
    config: ConfigDict,
    inputs: Inputs,
    data: Store,
    graphs: GraphFolder | None,
    train_rows: np.ndarray,
    *,
    taught: bool,
) -> Params:
    """`frozen` of a method, without the earlier stages.

    Args:
      config: of the stage.
      inputs: of its method.
      data: the store.
      graphs: of `cell_graphs.open_for`.
      train_rows: positions of the training records of the fold.
      taught: whether an earlier stage is its teacher; memory banks of a student have a
        row per training record.

    Returns:
      What the method reads of "omics" (`omics.fold_constants`), "columns"
      (`cell_graphs.fold_constants`), "features" (`bag_features.fold_constants`) and
      "labels": `index` in ascending order and `grade`, int32 [n].
    """
    constants = (
        omics.fold_constants(inputs, data, train_rows)
        | cell_graphs.fold_constants(graphs, train_rows)
        | bag_features.fold_constants(config, data.bags, train_rows)
    )
    if taught:
        index = np.sort(train_rows).astype(np.int32)
        grade = data.grades[index].astype(np.int32)
        constants["labels"] = {"index": index, "grade": grade}
    return constants
