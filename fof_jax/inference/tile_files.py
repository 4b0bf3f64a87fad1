"""Tiles of a slide as a table, and as GeoJSON for QuPath; rows and squares of tiles.

GeoJSON is that of QuPath 0.4 and later (Bankhead et al., Sci Rep 2017; "Exporting
annotations" in its documentation): a FeatureCollection whose polygons are in pixels of
level 0, from the upper left corner, with `objectType`, `classification` (name and RGB
color) and `measurements` (numbers by name) as properties. Geometry by Shapely, extra
`slides`.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fof_jax import files
from fof_jax.inference.slides import SlidePrediction

_DECIMALS = 2  # of coordinates, in level-0 pixels
FOCUS = "focus"  # QuPath's derived class "II: focus"
OF_MAPS = ("map_mean", "kept")


def write(stem: Path, slide: SlidePrediction) -> None:
    """Writes STEM.csv and STEM.geojson.

    Raises:
      ValueError: Shapely is not installed.
    """
    collection = features(slide)
    write_texts(stem, table(slide), as_json(collection))


def write_texts(stem: Path, table: str, geojson: str) -> None:
    """Writes both files; the folder is created."""
    files.write_text(stem.with_name(f"{stem.name}.csv"), table)
    files.write_text(stem.with_name(f"{stem.name}.geojson"), geojson)


def table(slide: SlidePrediction) -> str:
    """CSV with a row per tile.

    Columns: x, y, width (left, top and side in level-0 pixels), mpp (micrometers per
    level-0 pixel), pred, p_CLASS, and, with maps, map_mean (mean of A for `pred`) and
    kept (fraction of the patches in M).
    """
    classes = slide.grades.classes
    rows = [
        cells(corner, slide.side, slide.mpp, prob, classes)
        for corner, prob in zip(slide.corners, slide.tiles, strict=True)
    ]
    header = columns(classes)
    if slide.map_means is None or slide.keep is None:
        header = header[: -len(OF_MAPS)]
    else:
        for row, mean, keep in zip(rows, slide.map_means, slide.keep, strict=True):
            row += [f"{mean:.6f}", f"{keep.mean():.6f}"]
    return as_csv([header, *rows])


def columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns, those of maps last."""
    return ["x", "y", "width", "mpp", "pred", *(f"p_{n}" for n in classes), *OF_MAPS]


def cells(
    corner: Float[np.ndarray, " 2"],
    side: float,
    mpp: float | None,
    prob: Float[np.ndarray, " K"],
    classes: Sequence[str],
) -> list[str]:
    """A tile's cells without those of maps; the scale is empty if unknown."""
    return [
        *(f"{value:.{_DECIMALS}f}" for value in (*corner, side)),
        "" if mpp is None else f"{mpp:.6g}",
        classes[int(prob.argmax())],
        *(f"{p:.6f}" for p in prob),
    ]


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Text of a table."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def features(slide: SlidePrediction) -> dict[str, Any]:
    """A FeatureCollection: a square per tile and, with maps, M of the tile.

    Tiles are QuPath's objects of type `tile`, in the class predicted for them. M, Eq.
    (2), is an annotation of the derived class "CLASS: focus", as polygons around
    connected patches; a tile that keeps no patch has none.

    Raises:
      ValueError: Shapely is not installed.
    """
    classes = slide.grades.classes
    colors = rgb_colors(len(classes))
    squares = []
    for i, (corner, prob) in enumerate(zip(slide.corners, slide.tiles, strict=True)):
        k = int(prob.argmax())
        measured = probabilities(prob, classes)
        if slide.map_means is not None:
            measured["map_mean"] = number(slide.map_means[i])
        squares.append(tile(corner, slide.side, classes[k], colors[k], measured))
        if slide.keep is not None and slide.keep[i].any():
            measured["kept"] = number(slide.keep[i].mean())
            squares.append(
                _feature(
                    "annotation",
                    "MultiPolygon",
                    list(_outlines(slide.keep[i], corner, slide.side)),
                    f"{classes[k]}: {FOCUS}",
                    colors[k],
                    measured,
                )
            )
    return {"type": "FeatureCollection", "features": squares}


def _outlines(
    keep: Bool[np.ndarray, "h w"], corner: Float[np.ndarray, " 2"], side: float
) -> Iterator[list[list[list[float]]]]:
    """Closed rings of each connected group of patches: its outline, then its holes."""
    try:
        import shapely
    except ImportError:
        raise ValueError(
            "the polygons of slides require Shapely: pip install -e '.[slides]'."
        ) from None
    rows, columns = np.nonzero(keep)
    # On the grid of patches, where edges meet exactly.
    union = shapely.coverage_union_all(
        shapely.box(columns, rows, columns + 1, rows + 1)
    )
    step = side / np.array(keep.shape[::-1])
    for polygon in shapely.get_parts(shapely.normalize(union)):
        rings = (polygon.exterior, *polygon.interiors)
        yield [_rounded(shapely.get_coordinates(r) * step + corner) for r in rings]


def _rounded(points: Float[np.ndarray, "n 2"]) -> list[list[float]]:
    return np.round(points, _DECIMALS).tolist()


def rgb_colors(count: int) -> list[list[int]]:
    """Colors of the K classes, 0-255, as in the plots."""
    # Imported here: tables of regions should not load Matplotlib.
    from fof_jax.inference.visualization import class_colors

    return np.round(255 * class_colors(count)[:, :3]).astype(int).tolist()


def probabilities(
    prob: Float[np.ndarray, " K"], classes: Sequence[str]
) -> dict[str, float]:
    """Measurements of the classes."""
    return {f"p_{n}": number(p) for n, p in zip(classes, prob, strict=True)}


def tile(
    corner: Float[np.ndarray, " 2"],
    side: float,
    name: str,
    color: list[int],
    measurements: dict[str, float],
) -> dict[str, Any]:
    """The square of a tile, in a class with a color."""
    (x, y), (z, w) = corner, corner + side
    ring = _rounded(np.array([(x, y), (z, y), (z, w), (x, w), (x, y)]))
    return _feature("tile", "Polygon", [ring], name, color, measurements)


def as_json(collection: dict[str, Any]) -> str:
    """Text of a feature collection."""
    text = json.dumps(collection, ensure_ascii=False, separators=(",", ":"))
    return text + "\n"


def number(value: float) -> float:
    """A measurement, with six decimals."""
    return round(float(value), 6)


def _feature(
    kind: str,
    geometry: str,
    coordinates: list[Any],
    name: str,
    color: list[int],
    measurements: dict[str, float],
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": geometry, "coordinates": coordinates},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": color},
            "measurements": dict(measurements),
        },
    }
