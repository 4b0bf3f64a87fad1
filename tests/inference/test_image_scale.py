"""The column `mpp` of region images: warning, resampling, bad values.

The reference is the same image resized with Pillow.
"""

import csv

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data.stain import normalize_stain
from fof_jax.inference import inputs, preprocess


@pytest.fixture(scope="module")
def fold(small_run):
    return small_run / "fold_0"


@pytest.fixture(scope="module")
def table(small_pictures, tmp_path_factory):
    """One region: at about the training scale, enlarged twice, and without a scale."""
    folder = tmp_path_factory.mktemp("scale")
    region = next(iter(small_pictures.values())) ^ 1
    Image.fromarray(region).save(folder / "same.png")
    Image.fromarray(region).save(folder / "none.png")
    twice = np.kron(region, np.ones((2, 2, 1), np.uint8))
    Image.fromarray(twice).save(folder / "fine.png")
    lines = ["image,mpp", "same.png,0.52", "fine.png,0.25", "none.png,"]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


def predict(fold, table, out, *more):
    words = [f"--checkpoint={fold}", f"--images={table}", f"--out={out}"]
    code = main(["predict", *words, "--no_pictures", *more])
    if code:
        return code
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def probabilities(row):
    return [float(row[f"p_{name}"]) for name in ("II", "III", "IV")]


def test_an_image_of_another_scale_is_warned_of_or_resampled(fold, table, tmp_path):
    """Tolerance 1e-5: six decimals. 4% off the scale is no difference worth a word."""
    same, fine, none = predict(fold, table, tmp_path / "a")
    assert "mpp" not in same["warning"]
    assert "0.25 µm/pixel, the training images have 0.5: --resample" in fine["warning"]
    assert "µm" not in none["warning"]
    same, fine, unknown = predict(fold, table, tmp_path / "b", "--resample")
    assert "µm" not in fine["warning"]
    assert "no mpp in the table: not resampled" in unknown["warning"]
    with Image.open(table.with_name("fine.png")) as image:
        halved = np.array(image.resize((64, 64), Image.Resampling.BICUBIC))
    expected = fof_jax.load(fold).predict(halved).prob[0]
    np.testing.assert_allclose(probabilities(fine), expected, atol=1e-5)
    assert probabilities(unknown) == pytest.approx(probabilities(none), abs=1e-5)


def test_a_resampled_image_is_not_enlarged_again(fold, small_pictures, tmp_path):
    """32 pixels at the training scale are padded to the 64 of training images."""
    region = next(iter(small_pictures.values())) ^ 1
    Image.fromarray(region).save(tmp_path / "fine.png")
    (tmp_path / "t.csv").write_text("image,mpp\nfine.png,0.25\n")
    (row,) = predict(fold, tmp_path / "t.csv", tmp_path / "out", "--resample")
    assert "padded with white: 32 x 32 at the training scale" in row["warning"]
    halved = Image.fromarray(region).resize((32, 32), Image.Resampling.BICUBIC)
    model = fof_jax.load(fold)
    pixels = model.preprocess(region, zoom=0.5).pixels
    assert pixels.shape == (64, 64, 3)
    inside = normalize_stain(np.array(halved), model.config.data.stain)
    np.testing.assert_array_equal(pixels[16:48, 16:48], inside)
    assert (pixels[:16] == 255).all()
    assert (pixels[:, 48:] == 255).all()


@pytest.mark.parametrize(("height", "width"), [(40, 120), (80, 40)])
def test_a_resampled_oblong_image_is_padded_and_not_squeezed(fold, height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(100, 156, (height, width, 3), np.uint8)
    made = fof_jax.load(fold).preprocess(image, zoom=0.5)
    size = f"{width // 2} x {height // 2}"
    assert f"padded with white: {size} at the training scale" in made.warning
    assert "squeezed" not in made.warning
    inside = (made.pixels != 255).any(axis=2)
    rows, columns = inside.any(axis=1).sum(), inside.any(axis=0).sum()
    assert (rows, columns) == (height // 2, width // 2)


@pytest.mark.parametrize("zoom", [0.999, 1.0, 1.2])
def test_a_known_scale_is_kept_whatever_it_is(fold, zoom):
    """40 pixels: at the scale of training already, or nearly, or with larger pixels."""
    image = np.random.default_rng(0).integers(100, 156, (40, 40, 3), np.uint8)
    made = fof_jax.load(fold).preprocess(image, zoom=zoom)
    inside = (made.pixels != 255).any(axis=2)
    assert inside.any(axis=1).sum() == round(40 * zoom)
    unknown = fof_jax.load(fold).preprocess(image)
    assert (unknown.pixels != 255).any(axis=2).all()


def test_resampling_needs_a_scale(fold, table, tmp_path, capsys):
    image = table.with_name("same.png")
    assert predict(fold, image, tmp_path / "out", "--resample") == 2
    assert "column 'mpp'" in capsys.readouterr().err


@pytest.mark.parametrize(("cell", "message"), [("40x", "number"), ("250", "range")])
def test_a_bad_scale_is_an_error(cell, message, table, tmp_path):
    path = table.with_name(f"{cell}.csv")
    path.write_text(f"image,mpp\nsame.png,{cell}\n")
    with pytest.raises(ValueError, match=message):
        inputs.find(path)


def test_an_image_that_would_be_too_large_is_refused(fold):
    options = fof_jax.load(fold).config.data
    image = np.zeros((1000, 1000, 3), np.uint8)
    with pytest.raises(ValueError, match="Check its mpp, or cut it"):
        preprocess.preprocess(image, options, (64, 64), zoom=20.0)
