"""Cell graphs of the images that a model of graphs predicts, made as in training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from fof_jax.data import images
from fof_jax.data.graphs import builder, padding, record
from fof_jax.data.graphs.build import AddColumns
from fof_jax.data.images import ImageLike
from fof_jax.inference import preprocess
from fof_jax.inference.preprocess import PreparedImage

BATCH = 8  # graphs in one call of a compiled function


def only_regions(method: str) -> str:
    """Why tiles of a slide are not predicted, for messages."""
    return (
        f"method {method!r} reads cell graphs of regions. Save regions of the slide as "
        "images."
    )


def with_graphs(
    image: ImageLike,
    prepared: PreparedImage,
    config: ConfigDict,
    sides: tuple[int, int] | None,
    origin: dict[str, Any],
    *,
    add_columns: AddColumns | None,
    zoom: float | None = None,
) -> PreparedImage:
    """A preprocessed image with the graphs of its tiles.

    The graph of an image no larger than the training images is that which `data graphs`
    makes of it. Of a larger one each tile has a graph, and tiles without nuclei are
    left out. Colors are those before stain normalization, as in training.

    Args:
      image: as in `preprocess.preprocess`.
      prepared: of it.
      config: of the run.
      sides: as in `predictor.Predictor`.
      origin: how the graphs of the training data were made.
      add_columns: adds the columns that they had besides the builder's.
      zoom: as in `preprocess.preprocess`.

    Raises:
      ValueError: they were not built of images alone, scikit-image is not installed, or
        there is no nucleus.
    """
    if origin["kind"] != "builder":
        kinds = {"pt": ".pt files", "labels": "label maps"}
        raise ValueError(
            f"method {config.method!r}: the graphs of the training data are of "
            f"{kinds[origin['kind']]}, and those that can be built of an image differ "
            "from them. Train on graphs of `data graphs` without --pt and --labels."
        )
    decoded = preprocess.rescale(images.read(image), zoom)
    factor = preprocess.scale(decoded.shape, config.data, sides)
    if factor is None:
        graph = builder.build(decoded, mpp=origin["mpp"])
        if add_columns is not None:
            graph = add_columns(decoded, graph)
        return dataclasses.replace(prepared, graphs=(graph,))
    options = ConfigDict(config.data.to_dict())
    options.stain = "none"
    tiles = preprocess.preprocess(decoded, options, sides).tiles
    graphs: list[record.CellGraph | None] = []
    for tile in tiles:
        try:
            graph = builder.build(tile, mpp=origin["mpp"] / factor)
        except builder.NoNucleusError:
            graphs.append(None)
            continue
        graphs.append(graph if add_columns is None else add_columns(tile, graph))
    kept = [k for k, graph in enumerate(graphs) if graph is not None]
    if not kept:
        raise builder.NoNucleusError("cell graph: no nucleus in the image.")
    warning = prepared.warning
    if len(kept) < len(graphs):
        text = f"{len(graphs) - len(kept)} of {len(graphs)} tiles have no nucleus"
        warning = "; ".join(filter(None, (warning, text)))
    return dataclasses.replace(
        prepared,
        tiles=prepared.tiles[kept],
        corners=[prepared.corners[k] for k in kept],
        graphs=tuple(graph for graph in graphs if graph is not None),
        warning=warning,
    )


def in_batches(
    compiled: Callable[[Any], tuple[jax.Array, jax.Array]],
    prepared: Sequence[PreparedImage],
    options: ConfigDict,
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n D"]]:
    """Applies a compiled function to the graphs of images, in batches of one size.

    Args:
      compiled: padded graphs to probabilities and features.
      prepared: of `with_graphs`.
      options: section `pathgcn` of the run's config. With the batch maximum a graph is
        predicted alone, because it would depend on the others.
    """
    graphs = [graph for one in prepared for graph in one.graphs or ()]
    size = 1 if options.normalization == "batch" or len(graphs) == 1 else BATCH
    parts = []
    for first in range(0, len(graphs), size):
        batch = graphs[first : first + size]
        padded = batch + [batch[-1]] * (size - len(batch))
        both = compiled(padding.pad(padded, bucket=options.bucket))
        parts.append([np.asarray(one, np.float64)[: len(batch)] for one in both])
    prob, features = (np.concatenate(one) for one in zip(*parts, strict=True))
    return prob, features
