"""Features of tiles: the files of the three layouts, images, slides, and the probe."""

import csv

import h5py
import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data.bags import reading, writing
from fof_jax.inference import features, inputs, slides
from tests.support import bag_files


def patches(**fields):
    usual = {
        "features": bag_files.features(0, 7),
        "corners": bag_files.grid(7, 512).astype(np.int64),
        "patch_size": 512, "pixels": 224, "encoder": "DINOv2-S/14", "name": "a",
        "size": (5000, 4000), "mpp": 0.25,
    }  # fmt: skip
    return writing.Patches(**usual | fields)


def test_a_file_reads_back_and_has_what_clam_and_trident_read(tmp_path):
    made = patches(mask=np.arange(7) % 3 == 0)
    writing.write(tmp_path / "a.h5", made)
    header = reading.check(tmp_path / "a.h5")
    bag = reading.read(tmp_path / "a.h5", header)
    np.testing.assert_array_equal(bag.features, made.features)
    np.testing.assert_array_equal(bag.coords, bag_files.grid(7, 1) - (3, 1))
    np.testing.assert_array_equal(reading.read_mask(tmp_path / "a.h5"), made.mask)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].dtype == np.float32
        assert file["coords"].dtype == np.int64
        stated = dict(file["coords"].attrs)
    # TRIDENT (IO.coords_to_h5); CLAM (process_contour): patch_size times downsample.
    assert stated["patch_size_level0"] == 512
    assert stated["patch_size"] * stated["downsample"] == pytest.approx(512)
    assert (stated["level0_width"], stated["level0_height"]) == (5000, 4000)


def test_stamp_has_micrometers_and_needs_the_scale(tmp_path):
    writing.write(tmp_path / "a.h5", patches(), "stamp")
    header = reading.check(tmp_path / "a.h5")
    assert (header.layout, header.unit, header.patch_size) == ("stamp", "um", 128)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_allclose(file["coords"], bag_files.grid(7, 128))
        np.testing.assert_array_equal(file["feats"], bag_files.features(0, 7))
        # What STAMP's get_coords reads.
        assert file.attrs["unit"] == "um"
        assert file.attrs["tile_size_um"] == 128
        assert file.attrs["tile_size_px"] == 224
        assert file.attrs["feat_type"] == "tile"
    with pytest.raises(ValueError, match="the image states no scale. Pass --image_mpp"):
        writing.write(tmp_path / "b.h5", patches(mpp=None), "stamp")
    assert not (tmp_path / "b.h5").exists()


def test_npz(tmp_path):
    writing.write(tmp_path / "a.npz", patches(), "npz")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["features"], bag_files.features(0, 7))
        np.testing.assert_array_equal(file["coords"], bag_files.grid(7, 512))
        assert file["patch_size_level0"] == 512


@pytest.fixture
def mean_color():
    return features.TileEncoder(
        lambda tiles: tiles.mean(axis=(1, 2)), side=10, longest=64, name="x", digest=""
    )


def test_tiles_of_an_image(tmp_path, mean_color):
    pixels = np.random.default_rng(0).integers(0, 256, (25, 38, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (image,) = inputs.find(tmp_path / "a.png")
    made = features.of_file(mean_color, image, mpp=0.5)
    assert made.corners.tolist() == [[0, 0], [10, 0], [20, 0], [0, 10], [10, 10],
                                     [20, 10]]  # fmt: skip
    for (x, y), value in zip(made.corners, made.features, strict=True):
        expected = pixels[y : y + 10, x : x + 10].mean(axis=(0, 1))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    Image.fromarray(pixels[:, :4]).save(tmp_path / "b.png")
    (image,) = inputs.find(tmp_path / "b.png")
    narrow = features.of_file(mean_color, image, mpp=0.5)
    assert len(narrow.features) == 2  # padded with white
    white = np.full((10, 6, 3), 255, np.uint8)
    expected = np.hstack([pixels[:10, :4], white]).mean(axis=(0, 1))
    assert narrow.corners.tolist() == [[0, 0], [0, 10]]
    np.testing.assert_allclose(narrow.features[0], expected, rtol=1e-6)
    whole = features.of_file(mean_color, image, mpp=0.5, whole=True)
    assert whole.features.shape == (1, 3)


def test_a_trained_fold_gives_what_python_gives(small_run, small_pictures, tmp_path):
    name, pixels = next(iter(small_pictures.items()))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    fold = small_run / "fold_0"
    out = tmp_path / "features"
    words = ["features", f"--checkpoint={fold}", f"--images={tmp_path / 'a.png'}",
             f"--out={out}"]  # fmt: skip
    assert main(words) == 0
    bag = reading.read(out / "a.h5", reading.check(out / "a.h5"))
    expected = fof_jax.load(fold).features([pixels])[0]
    np.testing.assert_allclose(bag.features, expected, rtol=1e-5, atol=1e-6)
    assert main(words) == 0  # nothing is left to do
    assert main([*words, "--layout=npz"]) == 2  # another job
    assert main([*words[:1], f"--checkpoint={small_run}", *words[2:]]) == 2


def test_tiles_of_a_slide(tmp_path, mean_color):
    tifffile = pytest.importorskip("tifffile", reason="writes the slide of this test")
    pytest.importorskip("openslide", reason="the extra `slides` is not installed")
    glass = np.full((400, 600, 3), 244, np.uint8)
    glass[160:240, 200:300] = (150, 60, 140)
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for level in range(2):
            part = np.ascontiguousarray(glass[:: 2**level, :: 2**level])
            kind = {"photometric": "rgb", "subfiletype": level and 1}
            file.write(part, tile=(64, 64), **kind)
    (image,) = inputs.find(tmp_path / "s.tif")
    made = features.of_file(mean_color, image, mpp=0.5, slide_mpp=0.25)
    assert (made.patch_size, made.pixels, made.mpp) == (20, 10, 0.25)
    assert made.size == (600, 400)
    inside = {(x, y) for x in range(200, 300, 20) for y in range(160, 240, 20)}
    assert inside <= {tuple(corner) for corner in made.corners.tolist()}
    # Within the tissue, of its color; the median filter may add a border.
    for corner, value in zip(made.corners.tolist(), made.features, strict=True):
        if tuple(corner) in inside:
            np.testing.assert_allclose(value, (150, 60, 140), atol=2)
    with slides.open_tiles(
        tmp_path / "s.tif", side=10, mpp=0.5, slide_mpp=0.25
    ) as tiles:
        assert len(tiles.corners) == len(made.corners)


def test_from_a_table_to_a_probe(tmp_path, monkeypatch, capsys):
    """Colors that tell the grade: the probe finds them, and not in shuffled grades."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(36):
        grade = i // 2 % 3
        pixels = rng.integers(0, 100, (20, 20, 3), np.uint8)
        pixels[..., grade] += 120
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "patient": f"P{i // 2}",
                     "grade": bag_files.CLASSES[grade], "idh": "1"})  # fmt: skip
    table = bag_files.write_table(tmp_path, rows)
    encoder = features.TileEncoder(
        lambda tiles: tiles.mean(axis=(1, 2)), side=10, longest=20, name="x", digest=""
    )
    monkeypatch.setattr(features, "read_encoder", lambda *a, **k: encoder)
    out = tmp_path / "features"
    words = ["features", "--checkpoint=x", f"--images={table}", f"--out={out}"]
    assert main(words) == 0
    with (out / "table.csv").open() as file:
        copied = list(csv.DictReader(file))
    assert copied[3] == rows[3] | {"image": "3.h5", "slide": "../3.png"}
    config = ["--config=configs/cohort.py", f"--config.data.table={out / 'table.csv'}",
              f"--config.data.dir={tmp_path / 'data'}", "--config.data.biomarkers=()",
              "--config.data.classes=0,1,2", "--config.folds=3"]  # fmt: skip
    assert main(["data", "build", *config]) == 0
    predicted = tmp_path / "probe.csv"
    assert main(["probe", *config, f"--out={predicted}"]) == 0
    assert "Linear probe, mean of the patches, cohort" in capsys.readouterr().out
    with predicted.open() as file:
        tested = list(csv.DictReader(file))
    assert {row["image"] for row in tested} == {f"{i}.h5" for i in range(36)}
    assert len(tested) == 36
    assert all(row["y"] == row["pred"] for row in tested)
    assert main(["probe", *config, "--strength=0"]) == 2
