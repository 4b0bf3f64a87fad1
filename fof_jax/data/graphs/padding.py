"""Batches of cell graphs: padding to buckets, and standardization of columns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from fof_jax.data.column_statistics import ColumnStatistics
from fof_jax.data.graphs.record import CellGraph

EDGES_PER_NODE = 8  # of the padded arrays; four neighbors both ways give 5.1 to 5.3


class PaddedGraphs(NamedTuple):
    """Graphs of one batch with one shape.

    Attributes:
      x: node features, 0 at padding.
      edge_index: source row first; padding edges point to node N.
      node_mask: True for real nodes.
    """

    x: Float32[np.ndarray, "B N F"]
    edge_index: Int32[np.ndarray, "B 2 E"]
    node_mask: Bool[np.ndarray, "B N"]


def padded_shape(nodes: int, edges: int, bucket: int) -> tuple[int, int]:
    """Numbers of nodes and edges that graphs are padded to.

    The number of edges follows from the number of nodes, so that batches of one bucket
    have one shape; graphs denser than `EDGES_PER_NODE` enlarge it by further buckets.

    Args:
      nodes, edges: of the largest graph.
      bucket: nodes are padded to a multiple of it, at least to one.

    Raises:
      ValueError: a bucket below 1.
    """
    if bucket < 1:
        raise ValueError(
            f"pad: got bucket {bucket}, expected 1 or more. Pass another "
            "--config.pathgcn.bucket."
        )
    nodes = _up(max(nodes, 1), bucket)
    return nodes, max(EDGES_PER_NODE * nodes, _up(edges, EDGES_PER_NODE * bucket))


def pad(
    graphs: Sequence[CellGraph],
    *,
    bucket: int = 256,
    shape: tuple[int, int] | None = None,
) -> PaddedGraphs:
    """Pads graphs to the smallest multiple of `bucket` nodes that holds the largest.

    Args:
      graphs: with equal columns; one without nodes is padding alone.
      bucket: nodes are padded to a multiple of it.
      shape: numbers of nodes and edges to pad to instead, of `padded_shape`.

    Raises:
      ValueError: no graph, a bucket below 1, or columns that differ.
    """
    if not graphs:
        raise ValueError("pad: got 0 graphs, expected 1 or more.")
    if len({graph.names for graph in graphs}) > 1:
        raise ValueError(
            "pad: the graphs have different columns. Build all of them the same way."
        )
    nodes, edges = shape or padded_shape(
        max(len(graph.x) for graph in graphs),
        max(graph.edge_index.shape[1] for graph in graphs),
        bucket,
    )
    b, columns = len(graphs), len(graphs[0].names)
    x = np.zeros((b, nodes, columns), np.float32)
    edge_index = np.full((b, 2, edges), nodes, np.int32)
    node_mask = np.zeros((b, nodes), bool)
    for i, graph in enumerate(graphs):
        x[i, : len(graph.x)] = graph.x
        edge_index[i, :, : graph.edge_index.shape[1]] = graph.edge_index
        node_mask[i, : len(graph.x)] = True
    return PaddedGraphs(x, edge_index, node_mask)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def standardize(graphs: PaddedGraphs, statistics: ColumnStatistics) -> PaddedGraphs:
    """Columns to mean 0 and deviation 1 of the statistics' fold; padding stays 0."""
    x = (graphs.x - statistics.mean) / statistics.std
    return graphs._replace(x=np.where(graphs.node_mask[..., None], x, np.float32(0)))
