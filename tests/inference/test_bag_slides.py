"""Bags over their slides: which file is the slide, and where its patches are drawn.

Places are held to the coordinates that the test writes, pictures to the colors of a
slide whose regions are known.
"""

import csv
import json

import h5py
import matplotlib
import numpy as np
import pytest
from PIL import Image

from fof_jax.data.cohort import read_cohort
from fof_jax.data.store import build_store, open_store
from fof_jax.inference import bag_files as inference_files
from fof_jax.inference import bag_pictures, bag_slides, bags, tile_files
from fof_jax.inference.outputs import GradePredictions
from tests.support import bag_files, qupath
from tests.support.slide_files import write_slide

SIDE = 64  # of a patch, in level-0 pixels
CORNERS = np.array([[64.0, 0.0], [128.0, 64.0], [0.0, 128.0]])
COLORS = np.array([[200, 40, 60], [30, 160, 80], [70, 90, 210]], np.uint8)


def painted():
    """A white slide of 256 x 192 pixels; each patch has a color of its own."""
    pixels = np.full((192, 256, 3), 255, np.uint8)
    for (x, y), color in zip(CORNERS.astype(int), COLORS, strict=True):
        pixels[y : y + SIDE, x : x + SIDE] = color
    return pixels


def write_bag(path, *, name="", micrometers=None):
    with h5py.File(path, "w") as file:
        if micrometers:
            file["feats"] = bag_files.features(0, 3)
            file["coords"] = (CORNERS * micrometers).astype(np.float32)
            file.attrs.update(unit="um", tile_size_um=SIDE * micrometers)
        else:
            file["features"] = bag_files.features(0, 3)
            file["coords"] = CORNERS.astype(np.int64)
            file["coords"].attrs.update(patch_size_level0=SIDE, **(
                {"name": name} if name else {}
            ))  # fmt: skip
    return path


def place(path, unit="px", scale=1.0, **options):
    return bag_slides.place(path, CORNERS * scale, SIDE * scale, unit, **options)


@pytest.mark.parametrize(
    ("recorded", "slide"),
    [
        ("a.1", "a.1.svs"),  # TRIDENT and CLAM: without the suffix
        ("sub/a.1.svs", "a.1.svs"),  # of `fof features`: with it, below a table
        ("", "bag.ndpi"),  # STAMP: the file of features has the slide's name
        ("", None),
    ],
)
def test_a_slide_beside_the_features_has_their_name(tmp_path, recorded, slide):
    path = write_bag(tmp_path / "bag.h5", name=recorded)
    for other in ("a.svs", "bag.png", "bag2.svs", *([slide] if slide else [])):
        (tmp_path / other).write_bytes(b"")
    found = bag_slides.find(path)
    assert found == (tmp_path / slide if slide else None)
    assert bag_slides.find(path, tmp_path / "other.svs") == tmp_path / "other.svs"


def test_the_recorded_name_comes_before_that_of_the_features(tmp_path):
    path = write_bag(tmp_path / "bag.h5", name="slide")
    for name in ("bag.svs", "slide.svs"):
        (tmp_path / name).write_bytes(b"")
    assert bag_slides.find(path) == tmp_path / "slide.svs"


def test_patches_lie_on_the_slide(tmp_path):
    """A plain picture; the raster is that of its pixels, the map in known colors."""
    Image.fromarray(painted()).save(tmp_path / "a.png")
    path = write_bag(tmp_path / "bag.h5")
    placed = place(path, slide=tmp_path / "a.png")
    assert placed.warning == ""
    np.testing.assert_array_equal(placed.thumbnail, painted())
    np.testing.assert_array_equal(placed.corners, CORNERS)
    # The patches span 192 pixels from (0, 0).
    plain = bag_pictures.raster(placed, None, side=192)
    np.testing.assert_array_equal(plain, painted()[:, :192])
    A = np.array([0.0, 0.5, 1.0])
    shown = np.array([True, True, False])
    over = bag_pictures.raster(placed, bag_pictures.heat(A), shown=shown, side=192)
    gray = painted()[:, :192].mean(axis=2, keepdims=True)
    expected = np.repeat(gray, 3, axis=2)
    for (x, y), a in list(zip(CORNERS.astype(int), A, strict=True))[:2]:
        part = slice(y, y + SIDE), slice(x, x + SIDE)
        color = 255 * np.array(matplotlib.colormaps["viridis"](a)[:3])
        expected[part] = 0.6 * color + 0.4 * gray[part]
    np.testing.assert_allclose(over, expected, atol=1)


def test_without_a_slide_patches_are_as_the_file_has_them(tmp_path):
    placed = place(write_bag(tmp_path / "bag.h5"))
    assert (placed.unit, placed.mpp, placed.warning) == ("px", None, "")
    assert placed.thumbnail is None
    image = bag_pictures.raster(placed, 0.0 * CORNERS[:, :1].repeat(3, 1), side=96)
    assert image.shape == (96, 96, 3)
    black = (image == 0).all(axis=2)
    assert black[16, 48]  # the patch at (64, 0), at half its size
    assert not black[16, 16]
    assert black.mean() == pytest.approx(3 / 9)


def test_micrometers_become_pixels_by_the_slide_alone(tmp_path):
    pytest.importorskip("tifffile", reason="writes the slide")
    pytest.importorskip("openslide", reason="the extra `slides` is not installed")
    path = write_bag(tmp_path / "bag.h5", micrometers=0.25)
    alone = place(path, "um", 0.25)
    assert (alone.unit, alone.mpp) == ("um", 1.0)
    assert "no slide gives the scale" in alone.warning
    write_slide(tmp_path / "bag.tif", painted(), mpp=0.25)
    found = place(path, "um", 0.25)
    assert (found.unit, found.warning) == ("px", "")
    assert found.mpp == pytest.approx(0.25)
    np.testing.assert_allclose(found.corners, CORNERS, atol=1e-6)
    assert found.side == pytest.approx(SIDE)
    np.testing.assert_allclose(found.thumbnail, painted(), atol=2)
    write_slide(tmp_path / "bag.tif", painted(), mpp=None)
    assert "states no scale" in place(path, "um", 0.25).warning
    assert place(path, "um", 0.25, slide_mpp=0.25).unit == "px"


def test_another_slide_is_not_drawn(tmp_path):
    Image.fromarray(painted()[:64]).save(tmp_path / "a.png")
    path = write_bag(tmp_path / "bag.h5")
    small = place(path, slide=tmp_path / "a.png")
    assert small.thumbnail is None
    assert "256 x 64 pixels, and patches begin at up to 128 x 128" in small.warning
    (tmp_path / "b.png").write_bytes(b"no image")
    assert "slide b.png: " in place(path, slide=tmp_path / "b.png").warning
    lost = place(path, slide=tmp_path / "c.png").warning
    assert lost.endswith("c.png does not exist; the map is shown without it")


def prediction():
    """Class II explained, class IV predicted."""
    prob = np.array([[0.1, 0.2, 0.7]])
    grades = GradePredictions(prob, 0 * prob, ("II", "III", "IV"), ("",), ("",))
    return bags.BagPrediction(
        grades=grades,
        A=np.array([0.25, 1.0, 0.0]),
        keep=np.array([False, True, False]),
        target="II",
        coords=CORNERS,
        side=float(SIDE),
        unit="px",
    )


def test_files_have_the_columns_and_keys_of_slides(tmp_path):
    Image.fromarray(painted()).save(tmp_path / "a.png")
    path = write_bag(tmp_path / "bag.h5")
    placed = place(path, slide=tmp_path / "a.png", slide_mpp=0.5)
    plot = tmp_path / "out/bag.png"
    inference_files.write(tmp_path / "out/bag", plot, prediction(), placed, "title")
    with (tmp_path / "out/bag.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == tile_files.columns(("II", "III", "IV"))
    shown = [*"64.00 0.00 64.00 0.5 IV 0.100000 0.200000 0.700000".split(), "0.250000"]
    assert lines[0] == [*shown, "0.000000"]
    assert lines[1][-2:] == ["1.000000", "1.000000"]
    collection = json.loads((tmp_path / "out/bag.geojson").read_text())
    for feature in collection["features"]:
        qupath.require(feature)
    assert collection["features"][1]["geometry"]["coordinates"] == [
        [[128, 64], [192, 64], [192, 128], [128, 128], [128, 64]]
    ]
    assert collection["features"][1]["properties"] == {
        "objectType": "tile",
        "classification": {"name": "II", "color": tile_files.rgb_colors(3)[0]},
        "measurements": {
            "p_II": 0.1, "p_III": 0.2, "p_IV": 0.7, "map_mean": 1.0, "kept": 1.0,
        },
    }  # fmt: skip
    with Image.open(tmp_path / "out/bag.png") as plot:
        assert plot.width > 1.5 * plot.height  # two panels


def test_a_table_names_the_slides(tmp_path):
    bag_files.write_cohort(tmp_path, [4, 5])
    (tmp_path / "a.svs").write_bytes(b"")
    lines = [
        {"image": "slide_000.h5", "patient": "a", "grade": "0", "slide": "a.svs"},
        {"image": "slide_001.h5", "patient": "b", "grade": "1", "slide": ""},
    ]
    table = bag_files.write_table(tmp_path, lines)
    cohort = read_cohort(table, classes=("0", "1"), biomarkers=())
    build_store(cohort, directory=tmp_path / "data", name="bags", image_size=1)
    entries = open_store(tmp_path / "data", "bags").bags.entries
    assert [entry.slide for entry in entries] == [tmp_path / "a.svs", None]
    assert [one.slide for one in bags.find(table)] == [tmp_path / "a.svs", None]
