"""The graph network of Pathomic Fusion (PathGCN)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fof_jax.models import graph

Params = dict[str, dict[str, jax.Array]]

LAYERS = 3


@dataclasses.dataclass(frozen=True)
class PathGCN:
    """Three blocks of SAGEConv, ReLU and SAGPool, their readouts summed, and a head.

    Attributes:
      features: F, columns of a node.
      num_classes: K.
      width: D, of the graph layers.
      feature_width: of the pooled feature before the classifier.
      ratio: fraction of nodes that each pooling keeps.
      dropout: rate after the first dense layer, in training.

    Source: methods/clat_pathgcn.md, PathGCN; METHODS.md B1.
    """

    features: int
    num_classes: int = 3
    width: int = 128
    feature_width: int = 32
    ratio: float = 0.2
    dropout: float = 0.25

    def init(self, key: jax.Array) -> Params:
        """Random parameters, distributed as the published network's."""
        keys = iter(jax.random.split(key, 4 * LAYERS + 3))

        def uniform(shape: tuple[int, ...], fan_in: int) -> jax.Array:
            bound = 1 / math.sqrt(fan_in)
            return jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)

        def normal(fan_in: int, out: int) -> jax.Array:
            return jax.random.normal(next(keys), (fan_in, out)) / math.sqrt(fan_in)

        params: Params = {}
        for layer in range(1, LAYERS + 1):
            fan_in = self.features if layer == 1 else self.width
            params[f"conv{layer}"] = {
                "kernel": uniform((fan_in, self.width), fan_in),
                "bias": uniform((self.width,), fan_in),
            }
            params[f"pool{layer}"] = {
                "kernel": uniform((self.width, 1), self.width),
                "root_kernel": normal(self.width, 1),
                "root_bias": jnp.zeros(1),
            }
        sizes = (2 * self.width, self.width, self.feature_width, self.num_classes)
        for i, (fan_in, out) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
            params[f"lin{i}"] = {"kernel": normal(fan_in, out), "bias": jnp.zeros(out)}
        return params

    def apply(
        self,
        params: Params,
        x: Float[Array, "B N F"],
        edge_index: Int[Array, "B 2 E"],
        node_mask: Bool[Array, "B N"],
        *,
        dropout_keys: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Normalized graphs to logits.

        Args:
          params: see `init`.
          x: node features, normalized (`divide_by_maximum` or a fold's statistics).
          edge_index: source row first; entries outside 0 … N-1 are padding.
          node_mask: True for real nodes.
          dropout_keys: one for each graph, so that masks do not depend on how a batch
            is divided among devices; None in evaluation.

        Returns:
          `feature` [B, feature_width] and `logits` [B, K]; and as intermediates, for
          each block l: `sage{l}` [B, N, D], `score_raw{l}` [B, N], `keep{l}` [B, N],
          `pool{l}` [B, N, D], `counts{l}` [B, N, N], `readout{l}` [B, 2D]; and
          `readout_sum`, `lin1` before its ReLU.
        """
        out: dict[str, jax.Array] = {}
        counts = graph.adjacency(edge_index, node_mask)
        readouts = []
        for layer in range(1, LAYERS + 1):
            conv, pool = params[f"conv{layer}"], params[f"pool{layer}"]
            out[f"sage{layer}"] = graph.sage_conv(x, counts, node_mask, **conv)
            x = jax.nn.relu(out[f"sage{layer}"])
            raw = graph.graph_conv(x, counts, **pool)[..., 0]
            x, counts, node_mask = graph.sag_pool(
                x, raw, counts, node_mask, ratio=self.ratio
            )
            readouts.append(graph.readout(x, node_mask))
            out |= {
                f"score_raw{layer}": raw,
                f"keep{layer}": node_mask,
                f"pool{layer}": x,
                f"counts{layer}": counts,
                f"readout{layer}": readouts[-1],
            }
        out["readout_sum"] = sum(readouts[1:], readouts[0])
        out["lin1"] = _dense(out["readout_sum"], params["lin1"])
        hidden = jax.nn.relu(out["lin1"])
        if dropout_keys is not None:
            keep = jax.vmap(
                lambda key: jax.random.bernoulli(key, 1 - self.dropout, (self.width,))
            )(dropout_keys)
            hidden = jnp.where(keep, hidden / (1 - self.dropout), 0)
        out["feature"] = jax.nn.relu(_dense(hidden, params["lin2"]))
        out["logits"] = _dense(out["feature"], params["lin3"])
        return out


def _dense(x: Float[Array, "B F"], layer: dict[str, jax.Array]) -> Float[Array, "B D"]:
    return x @ layer["kernel"] + layer["bias"][None]
