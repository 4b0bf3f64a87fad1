"""The row PathGCN: grades from cell graphs alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods.base import FixedState, Inputs
from fof_jax.models import graph, pathgcn
from fof_jax.types import (
    Batch,
    DatasetInfo,
    LossOutput,
    Output,
    StepContext,
    Variables,
)

NORMALIZATIONS = ("fold", "graph", "batch")
MAXIMUM_COLUMNS = 12  # contour and texture; the others are not divided, as published


@dataclasses.dataclass(frozen=True)
class PathGCN(FixedState):
    """Cross-entropy of the graph network of Pathomic Fusion.

    A batch's `graph` has the fields of `data.graphs.padding.PaddedGraphs`.

    Attributes:
      network: of the graphs' number of columns.
      normalization: of the columns. "fold" standardizes all by `frozen["columns"]`,
        `mean` and `std` of the training fold's nodes; "graph" divides the first 12 by
        the maximum of each graph; "batch" by that of the batch, as published, so that
        a graph's logits depend on the others beside it (P2).
    """

    network: pathgcn.PathGCN
    normalization: str = "fold"

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"pathgcn.normalization: got {self.normalization!r}, expected one of "
                f"{', '.join(NORMALIZATIONS)}."
            )

    @property
    def inputs(self) -> Inputs:
        """Graphs in training and prediction."""
        return Inputs(("graph",), ("graph",))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.network.num_classes

    def init(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Variables:
        """Random parameters, no state.

        Args:
          batch: the number of columns is checked.
          frozen: `columns` where the normalization is "fold".

        Raises:
          ValueError: the batch has no graphs, graphs of another number of columns, or
            the fold's statistics are missing.
        """
        self._check(batch)
        if self.normalization == "fold" and "columns" not in (frozen or {}):
            raise ValueError(
                "pathgcn: statistics of the fold's columns are missing, expected "
                'frozen["columns"] with mean and std. Pass them, or '
                "--config.pathgcn.normalization=graph."
            )
        return Variables(params=self.network.init(key), state={}, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Mean cross-entropy of the global batch.

        Args:
          batch: this device's rows with graphs.
          ctx: its key draws dropout, one key for each row of the global batch; its
            gather collects the rows of all devices.

        Raises:
          ValueError: the batch has no graphs.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(ctx.key, batch.index)
        out = self._forward(variables, batch, ctx.gather, keys)
        logits, grade, weight = jax.tree.map(
            ctx.gather, (out.logits, batch.grade, batch.weight)
        )
        of_row = optax.softmax_cross_entropy_with_integer_labels(logits, grade)
        value = (of_row if weight is None else of_row * weight).mean()
        return value, LossOutput({"total": value}, variables.state)

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Feature and logits in evaluation.

        Raises:
          ValueError: the batch has no graphs.
        """
        return self._forward(variables, batch, lambda rows: rows, None)

    def _forward(
        self, variables: Variables, batch: Batch, gather: Any, keys: jax.Array | None
    ) -> Output:
        self._check(batch)
        x, edge_index, node_mask = map(jnp.asarray, batch.graph)
        if self.normalization == "fold":
            columns = variables.frozen["columns"]
            mean, std = (jnp.asarray(columns[k])[None, None] for k in ("mean", "std"))
            x = jnp.where(node_mask[..., None], (x - mean) / std, 0)
        else:
            x = graph.divide_by_maximum(
                x,
                node_mask,
                columns=MAXIMUM_COLUMNS,
                over=self.normalization,
                gather=gather,
            )
        out = self.network.apply(
            variables.params, x, edge_index, node_mask, dropout_keys=keys
        )
        return Output(features=out["feature"], logits=out["logits"])

    def _check(self, batch: Batch) -> None:
        if batch.graph is None:
            raise ValueError(
                "pathgcn: the batch has no graphs. Build them for the cohort and load "
                "them with it, or choose a row that reads the image."
            )
        if batch.graph.x.shape[-1] != self.network.features:
            raise ValueError(
                f"pathgcn: graphs have {batch.graph.x.shape[-1]} columns, expected "
                f"{self.network.features}. Pass "
                f"--config.pathgcn.columns={batch.graph.x.shape[-1]}."
            )


def build(config: ConfigDict, info: DatasetInfo) -> PathGCN:
    """The row of a configuration.

    Args:
      config: `pathgcn.columns`, `pathgcn.width`, `pathgcn.features`, `pathgcn.ratio`,
        `pathgcn.dropout` and `pathgcn.normalization` are read.
      info: `classes` is read.

    Source: methods/clat_pathgcn.md, "Recipe as published" and "Like for like".
    """
    network = pathgcn.PathGCN(
        features=config.pathgcn.columns,
        num_classes=len(info.classes),
        width=config.pathgcn.width,
        feature_width=config.pathgcn.features,
        ratio=config.pathgcn.ratio,
        dropout=config.pathgcn.dropout,
    )
    return PathGCN(network, config.pathgcn.normalization)
