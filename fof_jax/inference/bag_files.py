"""Files of the map over the patches of a bag: CSV, GeoJSON and a plot."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from fof_jax import files
from fof_jax.inference.bags import BagPrediction

COLUMNS = ("x", "y", "side", "unit", "A", "keep")


def write(
    folder: Path,
    stem: str,
    found: BagPrediction,
    keep: Bool[np.ndarray, " N"] | None,
    title: str,
) -> None:
    """Writes STEM.csv, STEM.geojson and STEM.png.

    Args:
      folder: of the files; created.
      stem: of their names.
      found: the prediction.
      keep: M; None where the method has none, an empty cell.
      title: of the plot.
    """
    from fof_jax.inference import visualization

    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / f"{stem}.csv", as_csv(found, keep))
    files.write_text(folder / f"{stem}.geojson", as_geojson(found, keep))
    visualization.plot_bag(
        folder / f"{stem}.png",
        A=found.A,
        coords=found.coords,
        side=found.side,
        unit=found.unit,
        title=title,
    )


def as_csv(found: BagPrediction, keep: Bool[np.ndarray, " N"] | None) -> str:
    """A row a patch, in the order of the file."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for i, ((x, y), a) in enumerate(zip(found.coords, found.A, strict=True)):
        kept = "" if keep is None else int(keep[i])
        place = (f"{number:.10g}" for number in (x, y, found.side))
        table.writerow([*place, found.unit, f"{a:.6g}", kept])
    return text.getvalue()


def as_geojson(found: BagPrediction, keep: Bool[np.ndarray, " N"] | None) -> str:
    """A feature collection of squares in the unit of the file (RFC 7946, QuPath).

    QuPath reads `measurements` of objects of the type `tile`, in level-0 pixels.
    """
    features = []
    for i, ((x, y), a) in enumerate(zip(found.coords.tolist(), found.A, strict=True)):
        right, below = x + found.side, y + found.side
        ring = [[x, y], [right, y], [right, below], [x, below], [x, y]]
        measured = {"A": round(float(a), 6)}
        measured |= {} if keep is None else {"keep": int(keep[i])}
        features.append({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "class": found.target,
                "unit": found.unit,
                "measurements": measured,
            },
        })  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features})
