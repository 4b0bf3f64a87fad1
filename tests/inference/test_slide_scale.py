"""What is a slide, which scale holds, and slides that are stained to their edges.

The slide is that of test_slides: regions on glass, at 0.25 micrometers per pixel.
"""

import csv

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import slide_file
from fof_jax.inference.tissue import tissue_mask

tifffile = pytest.importorskip("tifffile", reason="writes the slides of these tests")
pytest.importorskip("openslide", reason="the extra `slides` is not installed")
TILE = 128  # 64 pixels at 0.5 are 128 at 0.25 micrometers per pixel
COMMON = {"tile": (64, 64), "photometric": "rgb"}


@pytest.fixture(scope="module")
def pixels(small_pictures):
    """Two regions, each pixel repeated, in the middle of glass."""
    glass = np.full((3 * TILE, 4 * TILE, 3), 244, np.uint8)
    for k, region in enumerate(list(small_pictures.values())[:2], 1):
        unseen = region ^ (np.indices(region.shape).sum(axis=0) == 0)  # one value
        part = np.kron(unseen.astype(np.uint8), np.ones((2, 2, 1), np.uint8))
        glass[TILE : 2 * TILE, k * TILE : (k + 1) * TILE] = part
    return glass


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run)


def write(path, levels, *, mpp=(0.25, 0.25), unit="CENTIMETER", per=1e4):
    scale = {}
    if mpp:
        resolution = tuple(per / value for value in mpp)
        scale = {"resolution": resolution, "resolutionunit": unit}
    with tifffile.TiffWriter(path) as file:
        for k, level in enumerate(levels):
            file.write(level, subfiletype=k and 1, **COMMON, **(scale if not k else {}))
    return path


def halved(pixels):
    return np.ascontiguousarray(pixels[::2, ::2])


def predict(small_run, path, out, *more):
    words = [f"--checkpoint={small_run}", f"--images={path}", f"--out={out}"]
    code = main(["predict", *words, "--no_pictures", *more])
    with (out / "predictions.csv").open() as file:
        return code, list(csv.DictReader(file))


def probabilities(row):
    return [float(row[name]) for name in ("p_II", "p_III", "p_IV")]


@pytest.fixture(scope="module")
def expected(small_run, pixels, tmp_path_factory):
    """Probabilities of the pyramid of two levels."""
    folder = tmp_path_factory.mktemp("expected")
    path = write(folder / "a.tif", [pixels, halved(pixels)])
    code, (row,) = predict(small_run, path, folder / "out")
    assert code == 0
    assert row["error"] == row["warning"] == ""
    return probabilities(row)


@pytest.fixture(scope="module")
def one_level(pixels, model):
    """Mean over the tissue tiles, reduced from the full resolution alone."""
    tiles = [pixels[TILE : 2 * TILE, k * TILE : (k + 1) * TILE] for k in (1, 2)]
    how = Image.Resampling.BICUBIC
    reduced = [np.array(Image.fromarray(t).resize((64, 64), how)) for t in tiles]
    return model.predict(reduced).prob.mean(axis=0)


def test_an_ome_tiff_with_sub_ifds_is_a_slide(small_run, pixels, one_level, tmp_path):
    """Its scale is that of its metadata. Tolerance 1e-6, as of batches."""
    for unit, size in (("µm", 0.25), ("nm", 250.0)):
        path = tmp_path / f"{size:g}.ome.tif"
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
        with tifffile.TiffWriter(path) as file:
            file.write(pixels, subifds=1, metadata=metadata, **COMMON)
            file.write(halved(pixels), subfiletype=1, **COMMON)
        _, (row,) = predict(small_run, path, tmp_path / unit)
        np.testing.assert_allclose(probabilities(row), one_level, atol=1e-6)


def test_a_tiled_tiff_of_one_level_is_a_slide(small_run, pixels, one_level, tmp_path):
    path = write(tmp_path / "one.tif", [pixels])
    _, (row,) = predict(small_run, path, tmp_path / "out")
    np.testing.assert_allclose(probabilities(row), one_level, atol=1e-6)


def test_a_tiled_tiff_as_large_as_training_images_is_an_image(
    small_run, small_pictures, model, tmp_path
):
    region = next(iter(small_pictures.values()))
    path = write(tmp_path / "region.tif", [region], mpp=None)
    _, (row,) = predict(small_run, path, tmp_path / "out")
    np.testing.assert_allclose(
        probabilities(row), model.predict([region]).prob[0], atol=1e-6
    )


def test_the_scale_of_the_file_holds(small_run, pixels, expected, tmp_path, capsys):
    path = write(tmp_path / "a.tif", [pixels, halved(pixels)])
    _, (row,) = predict(small_run, path, tmp_path / "a", "--slide_mpp=0.5")
    np.testing.assert_allclose(probabilities(row), expected, atol=1e-6)
    assert "states 0.25 µm/pixel: --slide_mpp=0.5 is for files" in row["warning"]
    assert "--slide_mpp=0.5 is for files" in capsys.readouterr().err
    path = write(tmp_path / "b.tif", [pixels, halved(pixels)], mpp=None)
    _, (row,) = predict(small_run, path, tmp_path / "b", "--slide_mpp=0.25")
    np.testing.assert_allclose(probabilities(row), expected, atol=1e-6)
    assert row["warning"] == ""


def test_print_resolutions_and_oblong_pixels_are_reasons(small_run, pixels, tmp_path):
    levels = [pixels, halved(pixels)]
    dpi = {"unit": "INCH", "per": 25400, "mpp": (25400 / 300,) * 2}
    path = write(tmp_path / "dpi.tif", levels, **dpi)
    code, (row,) = predict(small_run, path, tmp_path / "a")
    assert code == 1
    assert "has no valid resolution (stated: 84.67 x 84.67" in (
        (tmp_path / "a/predictions.csv").read_text()
    )
    path = write(tmp_path / "oblong.tif", levels, mpp=(0.25, 0.5))
    _, (row,) = predict(small_run, path, tmp_path / "b")
    assert "pixels of 0.25 x 0.5 µm; expected square ones" in row["error"]


@pytest.mark.parametrize(
    ("properties", "mpp"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.251"}, 0.2505),
        ({"openslide.objective-power": "40"}, 0.25),
        ({"openslide.mpp-x": "0.5", "openslide.objective-power": "40"}, 0.5),
        ({"openslide.mpp-x": "nan"}, None),
        ({"openslide.mpp-x": "0"}, None),
        ({"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"}, None),
        ({"openslide.objective-power": "?"}, None),
        ({"tiff.ImageDescription": '<OME PhysicalSizeX="." PhysicalSizeY="1"'}, None),
        ({}, None),
    ],
)
def test_which_scale_a_file_states(properties, mpp, tmp_path):
    path = tmp_path / "a.svs"
    if mpp is None:
        with pytest.raises(ValueError, match="no valid resolution"):
            slide_file.level_0_mpp(properties, path, None)
        assert slide_file.level_0_mpp(properties, path, 0.3) == (0.3, "")
    else:
        found, warning = slide_file.level_0_mpp(properties, path, None)
        assert found == pytest.approx(mpp)
        assert warning == ""


def test_a_slide_that_is_coarse_or_cut_says_so(small_run, pixels, tmp_path):
    path = write(tmp_path / "a.tif", [pixels], mpp=(1.0, 1.0))
    _, (row,) = predict(small_run, path, tmp_path / "a")
    assert "scanned at 1 µm/pixel, coarser than the 0.5" in row["warning"]
    cut = np.ascontiguousarray(pixels[TILE : 2 * TILE, TILE : 3 * TILE - 8])
    path = write(tmp_path / "b.tif", [cut])
    _, (row,) = predict(small_run, path, tmp_path / "b")
    assert "of the tissue is at the border, in no whole tile" in row["warning"]


@pytest.mark.parametrize("glass", [0.0, 0.1])
def test_a_slide_that_is_stained_to_its_edges_keeps_its_tissue(glass):
    """Tissue of pale and dark stain: Otsu's threshold would divide it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    dark = np.array(coarse.resize((400, 400), Image.Resampling.BICUBIC)) / 255
    pixels = np.stack([220 - 60 * dark, 170 - 120 * dark, 200 - 60 * dark], axis=2)
    tissue = np.ones((400, 400), bool)
    tissue[:, : int(400 * glass)] = False
    pixels[~tissue] = (243, 244, 242)
    mask = tissue_mask(pixels.astype(np.uint8))
    assert mask[tissue].mean() > 0.97
    assert mask[~tissue].mean() < 0.05 if glass else True


def test_a_thumbnail_of_a_large_level_is_read_in_parts(pixels, tmp_path, monkeypatch):
    """Tolerance 2 levels on average: two ways of reducing."""
    path = write(tmp_path / "a.tif", [pixels])
    monkeypatch.setattr(slide_file, "THUMBNAIL", 200)
    with slide_file.open_slide(path) as slide:
        whole = slide_file.thumbnail(slide)
        monkeypatch.setattr(slide_file, "_MAX_READ", 1)
        monkeypatch.setattr(slide_file, "_BLOCK", 64)
        parts = slide_file.thumbnail(slide)
    assert parts.shape == whole.shape == (150, 200, 3)
    assert np.abs(parts.astype(float) - whole).mean() < 2


def test_dicom_files_are_rows(small_run, tmp_path):
    """Not passed over: one that the slide library does not read has a reason."""
    folder = tmp_path / "dicom"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    assert slide_file.is_slide(folder / "a.dcm")
    code, (row,) = predict(small_run, folder, tmp_path / "out")
    assert code == 1
    assert row["image"] == "a.dcm"
    assert "not a slide that OpenSlide reads" in row["error"]
