"""Graph layers on padded graphs: SAGEConv, GraphConv, SAGPool, readouts.

B graphs of up to N nodes are stored densely: node features [B, N, F], a mask of real
nodes [B, N] and edges [B, 2, E], source row first. Padding edges point to node N, which
does not exist. All shapes are static: pooling clears entries of the node mask and never
gathers. The layers have the semantics of torch-geometric 1.3.0, the only version that
runs the published PathGCN.
"""

from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NORM_FLOOR = 1e-12  # of a node's length in SAGEConv


def adjacency(
    edge_index: Int[Array, "B 2 E"], node_mask: Bool[Array, "B N"]
) -> Float[Array, "B N N"]:
    """Counts of edges, [b, i, j] for j -> i.

    Args:
      edge_index: source row first; entries outside 0 … N-1 are padding.
      node_mask: True for real nodes. Edges at other nodes are dropped.

    Returns:
      float32, repeated edges counted as often as they occur.
    """
    b, n = node_mask.shape
    graph = jnp.arange(b)[:, None]
    source, target = edge_index[:, 0], edge_index[:, 1]
    # A negative index would count from the end.
    source, target = (jnp.where(i < 0, n, i) for i in (source, target))
    counts = jnp.zeros((b, n, n)).at[graph, target, source].add(1.0, mode="drop")
    return between(counts, node_mask)


def between(
    counts: Float[Array, "B N N"], node_mask: Bool[Array, "B N"]
) -> Float[Array, "B N N"]:
    """The edges whose two ends are in the mask."""
    return counts * (node_mask[:, :, None] & node_mask[:, None, :])


def sage_conv(
    x: Float[Array, "B N F"],
    counts: Float[Array, "B N N"],
    node_mask: Bool[Array, "B N"],
    *,
    kernel: Float[Array, "F D"],
    bias: Float[Array, " D"],
) -> Float[Array, "B N D"]:
    r"""SAGEConv: the mean over neighbors and the node, then a row of length 1.

    .. math::
       v_i = \frac{1}{|N(i) \cup i|} \sum_{j \in N(i) \cup i} x_j W + b, \quad
       h_i = v_i / \max(\lVert v_i \rVert_2, 10^{-12})

    Args:
      x: node features.
      counts: see `adjacency`. Self loops are replaced by exactly one per node.
      node_mask: True for real nodes.
      kernel, bias: W and b.

    Returns:
      h; 0 at padding.

    Source: methods/clat_pathgcn.md, PathGCN 2 and P3 (torch-geometric 1.3.0).
    """
    eye = jnp.eye(x.shape[1])[None]
    counts = counts * (1 - eye) + eye * node_mask[:, :, None]
    degree = jnp.maximum(counts.sum(-1, keepdims=True), 1)
    v = _sum_over_neighbors(counts, x @ kernel) / degree + bias[None, None]
    # The floor inside the root keeps the gradient finite at v = 0.
    length = jnp.sqrt(jnp.maximum((v * v).sum(-1, keepdims=True), NORM_FLOOR**2))
    return jnp.where(node_mask[..., None], v / length, 0)


def graph_conv(
    x: Float[Array, "B N D"],
    counts: Float[Array, "B N N"],
    *,
    kernel: Float[Array, "D E"],
    root_kernel: Float[Array, "D E"],
    root_bias: Float[Array, " E"],
) -> Float[Array, "B N E"]:
    r"""GraphConv: :math:`x_i W_r + b + \sum_{j \to i} x_j W`.

    Args:
      x: node features.
      counts: see `adjacency`; a plain sum, self loops only where they are edges.
      kernel: W, of the neighbors.
      root_kernel, root_bias: W_r and b, of the node itself.

    Source: methods/clat_pathgcn.md, PathGCN 2 and P4 (torch-geometric 1.3.0).
    """
    root = x @ root_kernel + root_bias[None, None]
    return root + _sum_over_neighbors(counts, x @ kernel)


def _sum_over_neighbors(
    counts: Float[Array, "B N N"], x: Float[Array, "B N D"]
) -> Float[Array, "B N D"]:
    # In full precision: which nodes a pooling layer keeps depends on it.
    return jnp.einsum("bij,bjd->bid", counts, x, precision=lax.Precision.HIGHEST)


def kept_count(nodes: Int[Array, " B"], ratio: float) -> Int[Array, " B"]:
    """ceil(ratio * nodes), exactly, for ratios with a denominator of at most 1000."""
    fraction = Fraction(ratio).limit_denominator(1000)
    return (nodes * fraction.numerator + fraction.denominator - 1) // (
        fraction.denominator
    )


def highest(
    score: Float[Array, "B N"], node_mask: Bool[Array, "B N"], *, ratio: float
) -> Bool[Array, "B N"]:
    """True for the ceil(ratio * n) nodes of each graph with the highest scores.

    Of equal scores the earlier node comes first. The usual case of equal scores are
    nodes with one closed neighborhood, and which of those is kept changes no readout.
    """
    order = jnp.argsort(
        jnp.where(node_mask, -lax.stop_gradient(score), jnp.inf), axis=-1, stable=True
    )
    rank = jnp.argsort(order, axis=-1)
    return node_mask & (rank < kept_count(node_mask.sum(-1), ratio)[:, None])


def sag_pool(
    x: Float[Array, "B N D"],
    raw_score: Float[Array, "B N"],
    counts: Float[Array, "B N N"],
    node_mask: Bool[Array, "B N"],
    *,
    ratio: float,
) -> tuple[Float[Array, "B N D"], Float[Array, "B N N"], Bool[Array, "B N"]]:
    """SAGPooling: keeps the highest scores tanh(raw) and scales features by them.

    Args:
      x: node features.
      raw_score: from `graph_conv` with one output.
      counts, node_mask: the graph before pooling.
      ratio: fraction of nodes to keep, rounded up.

    Returns:
      Features (0 where dropped), edges between kept nodes, and their mask.

    Source: methods/clat_pathgcn.md, PathGCN 2.
    """
    score = jnp.tanh(raw_score)
    keep = highest(score, node_mask, ratio=ratio)
    x = jnp.where(keep[..., None], x * score[..., None], 0)
    return x, between(counts, keep), keep


def readout(
    x: Float[Array, "B N D"], node_mask: Bool[Array, "B N"]
) -> Float[Array, "B 2*D"]:
    """Maximum and mean over the nodes of each graph; 0 for a graph without nodes."""
    mask = node_mask[..., None]
    nodes = mask.sum(1)
    # The gradient goes to one node. That of `max` compares all nodes with the maximum
    # again, which fails where the compiler computes x twice and rounds differently.
    winner = jnp.where(mask, lax.stop_gradient(x), -jnp.inf).argmax(1, keepdims=True)
    largest = jnp.take_along_axis(x, winner, axis=1)[:, 0]
    largest = jnp.where(nodes > 0, largest, 0)
    mean = jnp.where(mask, x, 0).sum(1) / jnp.maximum(nodes, 1)
    return jnp.concatenate([largest, mean], axis=-1)


def divide_by_maximum(
    x: Float[Array, "B N F"],
    node_mask: Bool[Array, "B N"],
    *,
    columns: int,
    over: str,
    gather: Callable[[jax.Array], jax.Array] = lambda rows: rows,
) -> Float[Array, "B N F"]:
    """Divides the first columns by their maximum.

    Args:
      x: raw node features.
      node_mask: True for real nodes.
      columns: how many columns, 12 in the published network.
      over: "graph" takes the maximum of each graph; "batch" that of all graphs, as
        published, so that a graph's logits depend on the others of its batch (P2).
      gather: local rows to the rows of all devices, for the maximum of a batch.

    Returns:
      x, with 0 at padding. A column whose maximum is 0 stays as it is (P6).

    Raises:
      ValueError: `over` is neither.

    Source: methods/clat_pathgcn.md, PathGCN 1.
    """
    if over not in ("graph", "batch"):
        raise ValueError(
            f"over: got {over!r}, expected 'graph' or 'batch'. Pass 'graph' unless "
            "the published batch maximum is to be reproduced."
        )
    mask = node_mask[..., None]
    largest = jnp.where(mask, x, -jnp.inf).max(1, keepdims=True)
    if over == "batch":
        largest = gather(largest).max(0, keepdims=True)
    usable = jnp.isfinite(largest) & (largest != 0)
    usable &= jnp.arange(x.shape[-1])[None, None] < columns
    return jnp.where(mask, x / jnp.where(usable, largest, 1), 0)
