"""Tables and QuPath's GeoJSON of slides, against single images, Shapely, QuPath's keys.

The slide is that of test_slides: three regions on glass, at 0.25 micrometers per pixel.
"""

import csv
import json

import numpy as np
import pytest

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import tile_files
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.slides import SlidePrediction
from tests.support import qupath
from tests.support.slide_files import PLACES, TILE, on_glass, write_slide

pytest.importorskip("tifffile", reason="writes the slide of these tests")
pytest.importorskip("openslide", reason="the extra `slides` is not installed")
shapely = pytest.importorskip("shapely", reason="the extra `slides` is not installed")
CLASSES = ("II", "III", "IV")


@pytest.fixture(scope="module")
def regions(small_pictures):
    return list(small_pictures.values())[:3]


@pytest.fixture(scope="module")
def out(small_run, regions, tmp_path_factory):
    """Output of `predict` of one fold for the slide."""
    folder = tmp_path_factory.mktemp("tiles")
    write_slide(folder / "a.tif", on_glass(regions))
    words = [f"--checkpoint={small_run / 'fold_0'}", f"--images={folder / 'a.tif'}"]
    assert main(["predict", *words, f"--out={folder / 'out'}"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def explained(small_run, regions):
    """What `explain` says about each region alone."""
    model = fof_jax.load(small_run / "fold_0")
    return [model.explain(region) for region in regions]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_tile_has_place_probabilities_and_map(out, explained):
    """Tolerance 1e-5: six decimals, and batches of another size."""
    rows = read_csv(out / "tiles/a.csv")
    for row, (y, x), region in zip(rows, PLACES, explained, strict=True):
        place = [float(row[name]) for name in ("x", "y", "width", "mpp")]
        assert place == [x * TILE, y * TILE, TILE, 0.25]
        assert row["pred"] == region.target
        prob = [float(row[f"p_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(prob, region.prob, atol=1e-5)
        assert float(row["map_mean"]) == pytest.approx(region.A.mean(), abs=1e-5)
        assert float(row["kept"]) == pytest.approx(region.keep.mean(), abs=1e-5)


def rings(geometry):
    parts = geometry["coordinates"]
    parts = [parts] if geometry["type"] == "Polygon" else parts
    return [ring for polygon in parts for ring in polygon]


def test_geojson_has_the_tiles_and_the_kept_patches(out, explained):
    collection = json.loads((out / "tiles/a.geojson").read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        qupath.require(feature)
        assert shapely.geometry.shape(feature["geometry"]).is_valid
        assert all(ring[0] == ring[-1] for ring in rings(feature["geometry"]))
    kind = {"tile": [], "annotation": []}
    for feature in collection["features"]:
        kind[feature["properties"]["objectType"]].append(feature)
    for feature, (y, x), region in zip(kind["tile"], PLACES, explained, strict=True):
        box = shapely.geometry.shape(feature["geometry"])
        assert box.bounds == tuple(TILE * v for v in (x, y, x + 1, y + 1))
        assert feature["properties"]["classification"]["name"] == region.target
        best = feature["properties"]["measurements"][f"p_{region.target}"]
        assert best == pytest.approx(region.prob.max(), abs=1e-5)
    # M of each tile, patch by patch, from the centers of patches.
    step = TILE / explained[0].keep.shape[0]
    inside = [shapely.geometry.shape(f["geometry"]) for f in kind["annotation"]]
    for (y, x), region in zip(PLACES, explained, strict=True):
        for (row, column), kept in np.ndenumerate(region.keep):
            center = shapely.Point(
                x * TILE + (column + 0.5) * step, y * TILE + (row + 0.5) * step
            )
            assert any(area.contains(center) for area in inside) == kept
    for feature in kind["annotation"]:
        assert feature["properties"]["classification"]["name"].endswith(": focus")


def slide_of(keep, side):
    """A slide of one tile with this mask, at (7, 9)."""
    grades = GradePredictions(
        np.array([[0.2, 0.8]]), np.zeros((1, 2)), ("no", "yes"), ("",), ("",)
    )
    return SlidePrediction(
        grades=grades,
        tiles=grades.prob,
        corners=np.array([[7.0, 9.0]]),
        side=side,
        mpp=0.2513,
        map_means=np.array([0.5]),
        keep=keep[None],
        thumbnail=np.zeros((2, 2, 3), np.uint8),
        ratio=0.1,
    )


@pytest.mark.parametrize("seed", range(3))
def test_polygons_of_any_mask_are_its_patches(seed):
    """Holes, patches that touch at a corner, a side that is no multiple of a patch.

    The area within 1%: coordinates have two decimals.
    """
    keep = np.random.default_rng(seed).random((9, 9)) < 0.6
    side = 100.1
    found = tile_files.features(slide_of(keep, side))["features"]
    area = shapely.geometry.shape(found[1]["geometry"])
    assert area.is_valid
    assert area.area == pytest.approx(keep.mean() * side**2, rel=1e-2)
    for (row, column), kept in np.ndenumerate(keep):
        center = np.array([column + 0.5, row + 0.5]) * side / 9 + (7, 9)
        assert area.contains(shapely.Point(center)) == kept


def test_a_tile_that_keeps_nothing_has_no_focus():
    slide = slide_of(np.zeros((4, 4), bool), 64.0)
    (tile,) = tile_files.features(slide)["features"]
    assert tile["properties"]["objectType"] == "tile"
    assert "kept" in tile_files.table(slide)
