"""Cell graphs in training: opened for a method that reads them; a fold's statistics."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import column_statistics
from fof_jax.data.cache import available_memory
from fof_jax.data.graphs import folder, padding
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.store import Store
from fof_jax.methods.base import Inputs, Modality
from fof_jax.types import Params


def reads(inputs: Inputs) -> bool:
    """Whether a method reads graphs."""
    return "graph" in (*inputs.train, *inputs.test)


def open_for(config: ConfigDict, inputs: Inputs, data: Store) -> GraphFolder | None:
    """The graphs of a store for a method; None for one that does not read them.

    They stay in memory once read, unless they would take more than half of it or
    `data.cache` is "none".

    Args:
      config: `data.cache` and `pathgcn.bucket` are read.
      inputs: of the method.
      data: the store.

    Raises:
      MissingDataError: the store has none; says how to build them.
    """
    if not reads(inputs):
        return None
    graphs = folder.open_folder(data, bucket=config.pathgcn.bucket)
    needed = 4 * int(graphs.nodes.sum()) * len(graphs.columns)
    fits = needed <= available_memory() // 2 and config.data.cache != "none"
    return folder.open_folder(data, keep=fits, bucket=config.pathgcn.bucket)


def loading(read: tuple[Modality, ...], graphs: GraphFolder | None) -> dict[str, Any]:
    """Arguments of the loader: graphs, and images unless graphs are all that is read.

    Args:
      read: modalities in training or at test.
      graphs: of `open_for`.
    """
    if graphs is None:
        return {}
    return {"graphs": graphs, "images": "image" in read}


def fold_constants(graphs: GraphFolder | None, train_rows: np.ndarray) -> Params:
    """`frozen` of a method that reads graphs; {} for one that does not.

    Args:
      graphs: of `open_for`.
      train_rows: positions of the training regions of the fold.

    Returns:
      {"columns": {"mean", "std"}}, float32 [F] each, over the nodes of the training
      regions.

    Raises:
      ValueError: no training region has a nucleus.
    """
    if graphs is None:
        return {}
    statistics = column_statistics.measure(graphs.graph(int(i)).x for i in train_rows)
    return {"columns": statistics._asdict()}


def example(columns: int) -> tuple[padding.PaddedGraphs, Params]:
    """Shapes of one padded graph, and statistics, to trace an initialization with."""
    shape: Any = jax.ShapeDtypeStruct
    graph = padding.PaddedGraphs(
        x=shape((1, 1, columns), np.float32),
        edge_index=shape((1, 2, padding.EDGES_PER_NODE), np.int32),
        node_mask=shape((1, 1), np.bool_),
    )
    ones = np.ones(columns, np.float32)
    return graph, {"columns": {"mean": ones, "std": ones}}
