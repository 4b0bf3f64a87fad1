"""A picture of cell graphs: outlines of nuclei and edges over the regions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fof_jax import files
from fof_jax.data import images
from fof_jax.data.graphs import builder, sources
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.graphs.sources import Source
from fof_jax.data.store import Store

REGIONS = 6
_SIDE, _GAP, _TEXT = 768, 6, 18  # of a cell, between cells, of a caption; pixels
_OUTLINE, _EDGE, _NODE = (255, 255, 0), (0, 160, 255), (255, 0, 0)


def choose(store: Store, regions: int = REGIONS) -> list[int]:
    """Rows for the picture: the classes in turn, evenly spread over each."""
    per_class = -(-regions // len(store.classes))
    chosen: list[int] = []
    for grade in range(len(store.classes)):
        rows = np.flatnonzero(np.asarray(store.grades) == grade)
        places = np.linspace(0, len(rows) - 1, min(per_class, len(rows))).astype(int)
        chosen += rows[places].tolist()
    return chosen[:regions]


def write(
    store: Store,
    graphs: GraphFolder,
    source: Source,
    path: Path,
    rows: Sequence[int] | None = None,
) -> None:
    """Writes a picture: each region, and beside it its outlines, edges and nodes.

    Outlines of .pt files are unknown; their edges and nodes alone are drawn.

    Args:
      store, graphs, source: of the regions.
      path: PNG to write.
      rows: positions of the regions; None for `choose`.
    """
    rows = choose(store) if rows is None else rows
    width, height = 2 * (_SIDE + _GAP), _SIDE + _GAP + _TEXT
    sheet = Image.new("RGB", (width, height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, row in enumerate(rows):
        rgb = images.decode(store.encoded(row))
        plain, drawn = _cells(rgb, graphs, source, row)
        top = k * height
        nodes = graphs.nodes[row]
        draw.text((4, top + 3), f"{store.images[row]}: {nodes} nuclei", fill="black")
        sheet.paste(plain, (0, top + _TEXT))
        sheet.paste(drawn, (_SIDE + _GAP, top + _TEXT))
    files.write_with(path, lambda file: sheet.save(file, format="PNG"))


def _cells(
    rgb: np.ndarray, graphs: GraphFolder, source: Source, row: int
) -> tuple[Image.Image, Image.Image]:
    """The region, and the region with its graph."""
    factor = _SIDE / max(rgb.shape[:2])
    height, width = (max(1, round(side * factor)) for side in rgb.shape[:2])
    plain = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    drawn = np.array(plain)
    labels = sources.label_map(source, row)
    if source.kind != "pt":
        scaled, labels = builder.rescale(rgb, labels, mpp=source.mpp)
        labels = builder.segment(scaled) if labels is None else labels
        drawn[_outlines(labels, height, width)] = _OUTLINE
    out = Image.fromarray(drawn)
    draw = ImageDraw.Draw(out)
    graph = graphs.graph(row)
    places = (graph.centroid + 0.5) * factor
    for start, end in graph.edge_index.T:
        if start < end:
            draw.line([*places[start], *places[end]], fill=_EDGE, width=1)
    for x, y in places:
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_NODE)
    return plain, out


def _outlines(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """True where the label of a pixel is another than that of a neighbor."""
    row, column = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    shown = labels[np.ix_(row, column)]
    edge = np.zeros(shown.shape, bool)
    edge[1:] |= shown[1:] != shown[:-1]
    edge[:, 1:] |= shown[:, 1:] != shown[:, :-1]
    return edge
