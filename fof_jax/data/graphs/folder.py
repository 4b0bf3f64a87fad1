"""Cell graphs of a store: one npz per region beside its images, and their index.

Layout of `STORE/graphs/`:

    index.json     columns, how the graphs were made, hash and size of each file
    000000.npz …   graphs by position in the store, of `record.encode`

The folder is staged and renamed when complete, so that it is there whole or not at all.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from fof_jax.data.errors import MissingDataError
from fof_jax.data.graphs import padding, record
from fof_jax.data.store import Store

NAME = "graphs"
INDEX = "index.json"
FORMAT = 1
FEW_NUCLEI = 10  # a graph of fewer says little


@dataclasses.dataclass(frozen=True)
class GraphFolder:
    """Cell graphs of all regions of a store; created by `open_folder`.

    Attributes:
      path: the folder.
      columns: names of the F columns.
      origin: how the graphs were made, JSON values; see `build.Source`.
      hashes: SHA-256 of each file.
      nodes, edges: of each graph.
      keep: whether graphs that were read stay in memory.
      bucket: batches are padded to a multiple of so many nodes.
    """

    path: Path
    columns: tuple[str, ...]
    origin: dict[str, Any]
    hashes: tuple[str, ...]
    nodes: Int[np.ndarray, " n"]
    edges: Int[np.ndarray, " n"]
    keep: bool = True
    bucket: int = 256
    _graphs: dict[int, record.CellGraph] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the contents of all graphs."""
        return hashlib.sha256("".join(self.hashes).encode()).hexdigest()[:16]

    @property
    def few(self) -> float:
        """Fraction of the regions with fewer than `FEW_NUCLEI` nuclei."""
        return float((self.nodes < FEW_NUCLEI).mean())

    def graph(self, row: int) -> record.CellGraph:
        """The graph of one region.

        Raises:
          MissingDataError: its file is missing or not the one that was built.
        """
        if row in self._graphs:
            return self._graphs[row]
        path = self.path / file_name(row)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, str(error)) from error
        if hashlib.sha256(data).hexdigest() != self.hashes[row]:
            raise self._damaged(path, "its hash is not that of the index")
        graph = record.decode(data, path)
        if self.keep:
            self._graphs[row] = graph
        return graph

    def _damaged(self, path: Path, why: str) -> MissingDataError:
        return MissingDataError(
            f"cell graphs: {path} is missing or was changed ({why}). Remove "
            f"{self.path} and build the graphs again: python launch.py data graphs, "
            "with the same --config arguments."
        )

    def read(
        self, rows: Int[np.ndarray, " B"], *, together: Int[np.ndarray, " G"]
    ) -> padding.PaddedGraphs:
        """Graphs of a batch, padded to one shape.

        Args:
          rows: positions in the store.
          together: rows of the global batch, whose largest graph decides the shape,
            so that all processes have the same.
        """
        shape = padding.padded_shape(
            int(self.nodes[together].max()),
            int(self.edges[together].max()),
            self.bucket,
        )
        return padding.pad([self.graph(int(row)) for row in rows], shape=shape)


def file_name(row: int) -> str:
    """Name of the file of a region."""
    return f"{row:06d}.npz"


def write_index(
    path: Path,
    columns: Sequence[str],
    origin: dict[str, Any],
    entries: Sequence[dict[str, Any]],
) -> None:
    """Writes index.json into a folder of graphs; entries have sha256, nodes, edges."""
    document = {
        "format": FORMAT,
        "columns": list(columns),
        "origin": origin,
        "graphs": list(entries),
    }
    (path / INDEX).write_text(json.dumps(document))


def exists(store: Store) -> bool:
    """Whether the store has graphs."""
    return (store.folder / NAME / INDEX).exists()


def open_folder(store: Store, *, keep: bool = True, bucket: int = 256) -> GraphFolder:
    """Opens the graphs of a store; none is read yet.

    Args:
      store: whose regions they are of.
      keep: whether graphs stay in memory once read.
      bucket: see `GraphFolder`.

    Raises:
      MissingDataError: there are none, or the index is damaged; with the remedy.
    """
    path = store.folder / NAME
    remedy = (
        "python launch.py data graphs --config=…, with the same --config arguments as "
        "here"
    )
    if not exists(store):
        raise MissingDataError(
            f"cell graphs: the store {store.folder} has none. Build them: {remedy}."
        )
    try:
        document = json.loads((path / INDEX).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}, expected {FORMAT}")
        entries = document["graphs"]
        if len(entries) != len(store):
            raise ValueError(f"{len(entries)} graphs, expected {len(store)}")
        return GraphFolder(
            path=path,
            columns=tuple(document["columns"]),
            origin=document["origin"],
            hashes=tuple(entry["sha256"] for entry in entries),
            nodes=np.array([entry["nodes"] for entry in entries], np.int64),
            edges=np.array([entry["edges"] for entry in entries], np.int64),
            keep=keep,
            bucket=bucket,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingDataError(
            f"cell graphs: {path / INDEX} is damaged ({error}). Remove {path} and "
            f"build the graphs again: {remedy}."
        ) from error
