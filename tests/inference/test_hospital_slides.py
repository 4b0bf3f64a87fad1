"""DICOM series, and TIFFs that OpenSlide does not read or reads as gray.

The slides are written here, by pydicom and tifffile, from regions on glass.
"""

import csv

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import slide_file, tiff_slide
from tests.support import dicom_files
from tests.support.slide_files import TILE, on_glass

tifffile = pytest.importorskip("tifffile", reason="writes the slides of these tests")
openslide = pytest.importorskip("openslide", reason="extra `slides` is not installed")
pytest.importorskip("pydicom", reason="writes the DICOM slides of these tests")
SIZES = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}


@pytest.fixture(scope="module")
def pixels(small_pictures):
    return on_glass([picture ^ 1 for picture in list(small_pictures.values())[:3]])


def write_channel_pages(path, pixels, **more):
    """An OME-TIFF whose three channels are pages, with a second level."""
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    common = {"tile": (64, 64), "photometric": "minisblack", **more}
    with tifffile.TiffWriter(path) as file:
        file.write(channels, subifds=1, metadata={"axes": "CYX", **SIZES}, **common)
        half = np.ascontiguousarray(channels[:, ::2, ::2])
        file.write(half, subfiletype=1, **common)


def write_strips(path, pixels, **more):
    with tifffile.TiffWriter(path) as file:
        for level in (pixels, np.ascontiguousarray(pixels[::2, ::2])):
            per_cm = 1e4 / 0.25
            scale = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            file.write(level, photometric="rgb", rowsperstrip=16, **scale, **more)


@pytest.fixture(scope="module")
def rows(small_run, pixels, tmp_path_factory):
    """predictions.csv of a folder with one slide of each kind."""
    folder = tmp_path_factory.mktemp("hospital")
    dicom_files.write_series(folder / "in/a", pixels, mpp=0.25)
    write_channel_pages(folder / "in/b.ome.tif", pixels)
    write_strips(folder / "in/c.tif", pixels)
    words = [f"--checkpoint={small_run / 'fold_0'}", f"--images={folder / 'in'}"]
    assert main(["predict", *words, "--no_pictures", f"--out={folder / 'out'}"]) == 0
    with (folder / "out/predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_slides_of_each_kind_get_the_same_grade(rows, pixels, small_run):
    """That of the tiles, reduced from the full resolution or the level below it.

    Tolerance 1e-5: six decimals.
    """
    assert [row["image"] for row in rows] == ["a/one_0.dcm", "b.ome.tif", "c.tif"]
    assert all(row["error"] == row["warning"] == "" for row in rows)
    half = pixels[::2, ::2]
    side = TILE // 2
    tiles = [
        half[y * side :, x * side :][:side, :side] for y, x in ((1, 1), (1, 2), (2, 3))
    ]
    model = fof_jax.load(small_run / "fold_0")
    halved = model.predict(tiles).prob.mean(axis=0)
    whole = [pixels[y * TILE :, x * TILE :][:TILE, :TILE] for y, x in
             ((1, 1), (1, 2), (2, 3))]  # fmt: skip
    bicubic = Image.Resampling.BICUBIC
    whole = [np.array(Image.fromarray(t).resize((side, side), bicubic)) for t in whole]
    reduced = model.predict(whole).prob.mean(axis=0)
    for row, expected in zip(rows, (halved, halved, reduced), strict=True):
        prob = [float(row[f"p_{name}"]) for name in model.classes]
        np.testing.assert_allclose(prob, expected, atol=1e-5)


def test_openslide_would_read_channel_pages_as_gray(pixels, tmp_path):
    """Why tifffile reads these."""
    path = tmp_path / "a.ome.tif"
    write_channel_pages(path, pixels)
    with openslide.OpenSlide(path) as slide:
        gray = np.array(slide.read_region((0, 0), 0, (8, 8)))
    assert (gray[..., 0] == gray[..., 2]).all()
    with slide_file.open_slide(path) as slide:
        assert isinstance(slide, tiff_slide.TiffSlide)
        assert slide.level_dimensions == ((690, 542), (345, 271))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("write", [write_channel_pages, write_strips])
def test_regions_are_the_pixels(write, compression, pixels, tmp_path):
    path = tmp_path / "a.ome.tif"
    write(path, pixels, compression=compression)
    height, width = pixels.shape[:2]
    with tiff_slide.TiffSlide(path) as slide:
        for left, top, w, h in [
            (0, 0, 690, 542),
            (100, 70, 33, 200),
            (680, 530, 40, 40),
        ]:
            found = np.array(slide.read_region((left, top), 0, (w, h)))
            expected = pixels[top : top + h, left : left + w]
            inside = found[: height - top, : width - left]
            np.testing.assert_array_equal(inside[..., :3], expected)
            assert (inside[..., 3] == 255).all()
            assert found[..., 3].sum() == 255 * expected.shape[0] * expected.shape[1]
        before = np.array(slide.read_region((-10, -20), 0, (30, 30)))
        np.testing.assert_array_equal(before[20:, 10:, :3], pixels[:10, :20])
        assert not before[:20].any()


def test_other_images_are_refused(pixels, tmp_path):
    """Fluorescence: two channels, or 16 bits."""
    path = tmp_path / "a.ome.tif"
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    for image in (channels[:2], channels.astype(np.uint16)):
        tifffile.imwrite(path, image, photometric="minisblack", tile=(64, 64),
                         metadata={"axes": "CYX", **SIZES})  # fmt: skip
        with pytest.raises(ValueError, match="expected RGB with 8 bits"):
            slide_file.open_slide(path)


def test_a_damaged_strip_is_a_reason(pixels, tmp_path):
    path = tmp_path / "a.tif"
    write_strips(path, pixels, compression="zlib")
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].dataoffsets[3]
    data = bytearray(path.read_bytes())
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    with (
        slide_file.open_slide(path) as slide,
        pytest.raises(ValueError, match="a part of the slide cannot be read"),
    ):
        slide.read_region((0, 0), 0, (690, 542))
