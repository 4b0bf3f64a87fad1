"""Files of the map over the patches of a bag: tables, GeoJSON and a plot.

Tables and GeoJSON are those of slides (`tile_files`): a tile is a patch.
"""

from pathlib import Path

import numpy as np

from fof_jax.inference import tile_files
from fof_jax.inference.bag_slides import Placed
from fof_jax.inference.bags import BagPrediction


def write(
    stem: Path, plot: Path, prediction: BagPrediction, placed: Placed, title: str
) -> None:
    """Writes STEM.csv, STEM.geojson and a plot.

    Args:
      stem: of the first two; the folder is created.
      plot: path of the PNG.
      prediction: of the bag.
      placed: its patches.
      title: of the plot.
    """
    from fof_jax.inference import bag_pictures

    tile_files.write_texts(
        stem, as_csv(prediction, placed), as_geojson(prediction, placed)
    )
    plot.parent.mkdir(parents=True, exist_ok=True)
    bag_pictures.plot(plot, A=prediction.A, placed=placed, title=title)


def as_csv(prediction: BagPrediction, placed: Placed) -> str:
    """A row a patch, in the order of the file, with the columns of slides.

    Prediction and probabilities are those of the bag, the same in every row. `map_mean`
    is A of the patch, `kept` 1 or 0, or empty where the method has no M.
    """
    classes, prob = prediction.grades.classes, prediction.grades.prob[0]
    rows = []
    for i, corner in enumerate(placed.corners):
        kept = "" if prediction.keep is None else f"{float(prediction.keep[i]):.6f}"
        row = tile_files.cells(corner, placed.side, placed.mpp, prob, classes)
        rows.append([*row, f"{prediction.A[i]:.6f}", kept])
    return tile_files.as_csv([tile_files.columns(classes), *rows])


def as_geojson(prediction: BagPrediction, placed: Placed) -> str:
    """A feature collection with a tile a patch, in the class that A explains.

    Measurements are as in `as_csv`. `kept` among them says which patches M keeps.
    """
    classes = prediction.grades.classes
    color = tile_files.rgb_colors(len(classes))[classes.index(prediction.target)]
    of_bag = tile_files.probabilities(prediction.grades.prob[0], classes)
    features = []
    for i, corner in enumerate(placed.corners):
        measured = of_bag | {"map_mean": tile_files.number(float(prediction.A[i]))}
        if prediction.keep is not None:
            measured["kept"] = float(prediction.keep[i])
        features.append(
            tile_files.tile(
                np.asarray(corner), placed.side, prediction.target, color, measured
            )
        )
    return tile_files.as_json({"type": "FeatureCollection", "features": features})
