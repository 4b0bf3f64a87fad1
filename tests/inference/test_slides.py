"""Whole slides: tissue detection, tiles at the training scale, aggregation, plot.

The slide is a pyramid of two levels written by tifffile: regions of the phantom on
glass, at 0.25 micrometres per pixel.
"""

import csv
import sys

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import slide_file, slides
from fof_jax.inference.tissue import tissue_mask
from tests.support.slide_files import TILE, on_glass, write_slide

tifffile = pytest.importorskip("tifffile", reason="writes the slides of these tests")
pytest.importorskip("openslide", reason="the extra `slides` is not installed")


@pytest.fixture(scope="module")
def regions(small_pictures):
    return list(small_pictures.values())[:3]


@pytest.fixture(scope="module")
def pixels(regions):
    return on_glass(regions)


@pytest.fixture(scope="module")
def slide(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_slide(path, pixels)
    return path


def test_pyramids_are_distinguished_from_images(slide, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "flat.tif")
    (tmp_path / "torn.tif").write_bytes(b"II*\0")
    assert slide_file.is_slide(slide)
    assert slide_file.is_slide(tmp_path / "gone.svs")
    assert not slide_file.is_slide(tmp_path / "flat.tif")
    assert not slide_file.is_slide(tmp_path / "torn.tif")
    assert not slide_file.is_slide(tmp_path / "a.png")


def test_tissue_is_detected_where_the_regions_are(pixels):
    mask = tissue_mask(pixels)
    inside = np.zeros(mask.shape, bool)
    for row, column in [(1, 1), (1, 2), (2, 3)]:
        inside[row * TILE :, column * TILE :][:TILE, :TILE] = True
    assert not mask[~inside].mean() > 0.01
    assert mask[inside].mean() > 0.5
    assert not tissue_mask(np.full((50, 60, 3), 244, np.uint8)).any()


def test_a_slide_is_the_mean_over_its_tissue_tiles(small_run, slide, regions):
    """Tolerance 1e-6: downsampling repeated pixels gives the regions back."""
    model = fof_jax.load(small_run)
    progress = []
    found = slides.predict_slide(
        model, slide, report_progress=lambda *done: progress.append(done)
    )
    expected = model.predict(regions)
    np.testing.assert_allclose(found.tiles, expected.prob, atol=1e-6)
    np.testing.assert_allclose(
        found.grades.prob[0], expected.prob.mean(axis=0), atol=1e-6
    )
    each = [
        fof_jax.load(small_run / f"fold_{k}").predict(regions).prob.mean(axis=0)
        for k in (0, 1)
    ]
    np.testing.assert_allclose(found.grades.spread[0], np.std(each, axis=0), atol=1e-6)
    assert progress == [(3, 3)]
    np.testing.assert_allclose(found.corners, np.array([(1, 1), (2, 1), (3, 2)]) * TILE)
    assert (found.side, found.mpp, found.ratio) == (TILE, 0.25, 1.0)
    assert found.map_means is found.keep is None


def test_predict_with_slides_and_images(small_run, slide, regions, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "b.tif").write_bytes(slide.read_bytes())
    Image.fromarray(regions[0]).save(folder / "a.png")
    Image.fromarray(regions[1]).save(folder / "c.png")
    (folder / "d.svs").write_bytes(b"no slide")
    for out, more in (("plots", []), ("plain", ["--no_pictures"])):
        words = [f"--checkpoint={small_run}", f"--images={folder}", *more]
        assert main(["predict", *words, f"--out={tmp_path / out}"]) == 0
        with (tmp_path / out / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows] == ["a.png", "b.tif", "c.png", "d.svs"]
        assert [bool(row["error"]) for row in rows] == [False, False, False, True]
        found = slides.predict_slide(fof_jax.load(small_run), slide).grades.prob[0]
        prob = [float(rows[1][f"p_{name}"]) for name in ("II", "III", "IV")]
        np.testing.assert_allclose(prob, found, atol=1e-6)
    with Image.open(tmp_path / "plots" / "focus" / "b.png") as picture:
        assert min(picture.size) > 300


def test_a_slide_without_resolution_requires_a_flag(small_run, pixels, tmp_path):
    write_slide(tmp_path / "a.tif", pixels, mpp=None)
    model = fof_jax.load(small_run)
    with pytest.raises(ValueError, match="--slide_mpp"):
        slides.predict_slide(model, tmp_path / "a.tif")
    found = slides.predict_slide(model, tmp_path / "a.tif", slide_mpp=0.25)
    assert len(found.tiles) == 3


def test_a_blank_slide_is_rejected(small_run, tmp_path):
    write_slide(tmp_path / "a.tif", np.full((300, 300, 3), 240, np.uint8))
    with pytest.raises(ValueError, match="no tile"):
        slides.predict_slide(fof_jax.load(small_run), tmp_path / "a.tif")


def test_without_openslide_the_error_names_the_extra(
    small_run, slide, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "openslide", None)
    words = [f"--checkpoint={small_run}", f"--images={slide}", f"--out={tmp_path}"]
    assert main(["predict", *words]) == 1
    assert "[slides]" in (tmp_path / "predictions.csv").read_text()


def test_a_damaged_tile_is_a_row_with_the_reason(
    small_run, pixels, regions, tmp_path, capsys
):
    """The other images of the folder are graded."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/a.tif"
    write_slide(path, pixels, compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        at = page.dataoffsets[len(page.dataoffsets) // 2]
    data = bytearray(path.read_bytes())
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    Image.fromarray(regions[0]).save(tmp_path / "in/b.png")
    words = [f"--checkpoint={small_run}", f"--images={tmp_path / 'in'}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pred"] != "" for row in rows] == [False, True]
    assert "a part of the slide cannot be read" in rows[0]["error"]
    assert "1 of 2 images graded" in capsys.readouterr().out
