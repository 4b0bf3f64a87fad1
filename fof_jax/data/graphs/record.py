"""The record of one region's cell graph, and its npz file."""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32

CONTOUR = (
    "short_axis", "long_axis", "angle", "area",
    "arc_length", "eccentricity", "roundness", "solidity",
)  # fmt: skip
TEXTURE = ("dissimilarity", "homogeneity", "energy", "asm")


@dataclasses.dataclass(frozen=True)
class CellGraph:
    """Nuclei of one region and the edges between neighbors; a region may have none.

    Attributes:
      x: float32 [n, F], one row per nucleus.
      edge_index: int32 [2, E], source row first; both directions are listed.
      centroid: float32 [n, 2], x and y in pixels of the region.
      names: of the F columns.

    Raises:
      ValueError: shapes disagree, an edge points outside, or x is not finite.
    """

    x: Annotated[np.ndarray, "float32 [n, F]"]
    edge_index: Annotated[np.ndarray, "int32 [2, E]"]
    centroid: Annotated[np.ndarray, "float32 [n, 2]"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        nodes, columns = _shape(self.x, "x", 2)
        sides, _ = _shape(self.edge_index, "edge_index", 2)
        if sides != 2 or _shape(self.centroid, "centroid", 2) != (nodes, 2):
            raise ValueError(
                f"cell graph: edge_index {self.edge_index.shape} and centroid "
                f"{self.centroid.shape}, expected (2, E) and ({nodes}, 2)."
            )
        if len(self.names) != columns:
            raise ValueError(
                f"cell graph: {len(self.names)} names for {columns} columns of x. "
                "Name every column once."
            )
        if self.edge_index.size and not (
            0 <= self.edge_index.min() and self.edge_index.max() < nodes
        ):
            raise ValueError(
                f"cell graph: edges run from {self.edge_index.min()} to "
                f"{self.edge_index.max()}, expected 0 … {nodes - 1}. Number the nodes "
                "from 0 in the order of x."
            )
        if not (np.isfinite(self.x).all() and np.isfinite(self.centroid).all()):
            raise ValueError(
                "cell graph: x or centroid has values that are not finite. Replace or "
                "drop those nuclei."
            )


def _shape(array: np.ndarray, name: str, rank: int) -> tuple[int, ...]:
    if array.ndim != rank:
        raise ValueError(
            f"cell graph: {name} has shape {array.shape}, expected {rank} axes."
        )
    return array.shape


def create(
    x: np.ndarray, edge_index: np.ndarray, centroid: np.ndarray, names: Iterable[str]
) -> CellGraph:
    """A record from arrays of any numeric type; see `CellGraph`."""
    if edge_index.size and not -1 <= edge_index.min() <= edge_index.max() < 2**31:
        raise ValueError(
            f"cell graph: edges run from {edge_index.min()} to {edge_index.max()}, "
            "which are no positions of nodes."
        )
    return CellGraph(
        np.ascontiguousarray(x, np.float32),
        np.ascontiguousarray(edge_index, np.int32),
        np.ascontiguousarray(centroid, np.float32),
        tuple(names),
    )


def append_columns(
    graph: CellGraph, values: Float32[np.ndarray, "n D"], *, prefix: str
) -> CellGraph:
    """Adds columns `prefix_0` … after the present ones."""
    added = tuple(f"{prefix}_{i}" for i in range(values.shape[1]))
    x = np.concatenate([graph.x, values.astype(np.float32)], axis=1)
    return dataclasses.replace(graph, x=x, names=graph.names + added)


def append_tokens(
    graph: CellGraph, tokens: Float32[np.ndarray, "h w D"], *, size: tuple[int, ...]
) -> CellGraph:
    """Adds, for each nucleus, the encoder's token of the patch at its centroid.

    This takes the place of the 1024 CPC columns of the published graphs, whose weights
    are not distributed with the code. It is not the published feature.

    Args:
      graph: of the region that the tokens are of.
      tokens: of the encoder, over the grid of patches.
      size: height and width of the region that centroids are of, in pixels.

    Returns:
      The graph with columns `token_0` … appended.

    Source: methods/clat_pathgcn.md, "Cell graphs from any image", 2.
    """
    rows, columns = tokens.shape[:2]
    column, row = (
        ((graph.centroid[:, k] + 0.5) * count / side).astype(int).clip(0, count - 1)
        for k, count, side in ((0, columns, size[1]), (1, rows, size[0]))
    )
    return append_columns(graph, tokens[row, column], prefix="token")


def encode(graph: CellGraph) -> bytes:
    """The npz file's bytes; equal graphs give equal bytes."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        x=graph.x,
        edge_index=graph.edge_index,
        centroid=graph.centroid,
        names=np.array(graph.names, dtype=np.str_),
    )
    return file.getvalue()


def empty(names: Iterable[str]) -> CellGraph:
    """The graph of a region without nuclei."""
    names = tuple(names)
    x, centroid = np.zeros((0, len(names))), np.zeros((0, 2))
    return create(x, np.zeros((2, 0), np.int32), centroid, names)


def read(path: Path | str) -> CellGraph:
    """Reads a file written by `encode`; nothing in it is unpickled.

    Raises:
      ValueError: it is no such file, or its graph is not valid.
      FileNotFoundError: it does not exist.
    """
    return decode(Path(path).read_bytes(), path)


def decode(data: bytes, name: Path | str) -> CellGraph:
    """The graph in bytes of `encode`.

    Args:
      data: content of a file.
      name: of the file, for the message.

    Raises:
      ValueError: as `read`.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            fields = {k: archive[k] for k in ("x", "edge_index", "centroid", "names")}
    except Exception as error:  # zip, zlib and NumPy raise many kinds
        raise ValueError(
            f"{name} cannot be read as a cell graph ({error}). Expected an .npz with "
            "x, edge_index, centroid and names."
        ) from error
    names = tuple(str(column) for column in fields.pop("names"))
    try:
        return create(**fields, names=names)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
