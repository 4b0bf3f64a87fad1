"""What is odd about an image that is graded: the column `warning`, and the page."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data.stain import normalize_stain
from fof_jax.inference import exported, image_warnings, visualization
from fof_jax.inference.serve.results import grade_image


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run)


@pytest.fixture(scope="module")
def region(small_pictures):
    return next(iter(small_pictures.values()))


ODD = {
    "black": (np.zeros((64, 64, 3), np.uint8), "no tissue: the image has one color"),
    "white": (np.full((64, 64, 3), 255, np.uint8), "the image has one color"),
    "pixel": (np.full((1, 1, 3), 200, np.uint8), "too small: 1 x 1 pixels"),
    "gray": (
        np.random.default_rng(0).integers(0, 255, (64, 64, 1)).astype(np.uint8),
        "no tissue: 0% of the image is stained",
    ),
    "green": (
        np.random.default_rng(1).integers(0, 60, (64, 64, 3)).astype(np.uint8)
        + np.array([0, 180, 0], np.uint8),
        "colors far from the training data's",
    ),
}


def test_predict_says_what_is_odd(small_run, region, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    changed = region.copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(folder / "fine.png")
    Image.fromarray(region).save(folder / "trained.png")
    for name, (pixels, _) in ODD.items():
        rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        Image.fromarray(np.ascontiguousarray(rgb)).save(folder / f"{name}.png")
    few = tmp_path / "few"  # a plot takes a second
    few.mkdir()
    for name in ("fine", "trained", "black"):
        shutil.copy(folder / f"{name}.png", few)
    for images, more in ((few, []), (folder, ["--no_pictures"])):
        out = tmp_path / f"out_{images.name}"
        words = [f"--checkpoint={small_run}", f"--images={images}", f"--out={out}"]
        assert main(["predict", *words, *more]) == 0
        with (out / "predictions.csv").open() as file:
            rows = {row["image"]: row for row in csv.DictReader(file)}
        for name, (_, message) in ODD.items():
            if images == few and name != "black":
                continue
            assert message in rows[f"{name}.png"]["warning"]
            assert rows[f"{name}.png"]["pred"]
        assert rows["fine.png"]["warning"] == ""
        assert rows["trained.png"]["warning"] == "a training image of this model"
        assert "black.png: no tissue" in capsys.readouterr().err


def test_the_page_has_the_warning(model, region):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "PNG")
    result = grade_image(model, buffer.getvalue(), None, 10**6)
    assert "no tissue" in result["warning"]


def test_an_exported_model_warns_too(model, tmp_path):
    exported.write(tmp_path / "m", model, card="")
    copy = exported.load(tmp_path / "m")
    assert copy.training == model.training
    (odd,) = copy.predict([np.zeros((64, 64, 3), np.uint8)]).warning
    assert "colors far" in odd or "no tissue" in odd


def test_no_training_image_has_strange_colors(model, small_pictures):
    for pixels in small_pictures.values():
        found = image_warnings.of_pixels(pixels, shortest=64, training=model.training)
        assert found == [image_warnings.TRAINING_IMAGE]


def test_models_of_earlier_versions_predict(small_run, region, tmp_path):
    import shutil

    run = shutil.copytree(small_run / "fold_0", tmp_path / "fold")
    about = json.loads((run / "model.json").read_text())
    del about["training"]
    (run / "model.json").write_text(json.dumps(about))
    old = fof_jax.load(run)
    assert old.training is None
    assert old.predict([region]).warning == ("",)


def test_a_strip_keeps_its_scale(model, region):
    """Its tiles are those of the same pixels on white."""
    strip = np.concatenate([region] * 5, axis=1)[1:]  # 63 x 320
    prepared = model.preprocess(strip)
    assert prepared.pixels.shape == (64, 320, 3)
    assert "padded with white: 320 x 63 is narrower than a tile" in prepared.warning
    whole = np.full((64, 320, 3), 255, np.uint8)
    whole[: strip.shape[0]] = normalize_stain(strip, model.config.data.stain)
    np.testing.assert_array_equal(prepared.pixels, whole)
    for tile, (top, left) in zip(prepared.tiles, prepared.corners, strict=True):
        np.testing.assert_array_equal(tile, whole[top:, left : left + 64])


def test_an_image_that_is_squeezed_is_named(model, region):
    prepared = model.preprocess(region[:40])
    assert prepared.pixels.shape == (64, 64, 3)
    assert "squeezed into a square: 64 x 40 pixels" in prepared.warning


@pytest.mark.parametrize(("height", "width"), [(126, 126), (70, 200), (200, 70)])
def test_patches_are_drawn_where_they_are(model, region, tmp_path, height, width):
    """Of images that are no multiple of the patch, 16 pixels."""
    large = np.tile(region, (4, 4, 1))[:height, :width]
    result = model.explain(large)
    assert result.patch == 16
    assert result.keep.shape == (height // 16, width // 16)
    keep = np.zeros_like(result.keep)
    keep[-1, -1] = True
    white = np.full_like(large, 255)
    shown = visualization.masked(white, keep, patch=result.patch)
    rows, columns = np.nonzero((shown == 255).all(axis=2))
    top, left = 16 * (height // 16 - 1), 16 * (width // 16 - 1)
    assert (rows.min(), rows.max()) == (top, top + 15)
    assert (columns.min(), columns.max()) == (left, left + 15)


@pytest.mark.slow
def test_wide_images_are_rows_with_plots(small_run, region, tmp_path):
    Image.fromarray(np.tile(region, (2, 6, 1))[:70, :330]).save(tmp_path / "wide.png")
    words = [f"--checkpoint={small_run}", f"--images={tmp_path / 'wide.png'}"]
    for verb in ("predict", "explain"):
        assert main([verb, *words, f"--out={tmp_path / verb}"]) == 0
    assert (tmp_path / "predict/focus/wide.png").exists()


def test_eval_on_training_images_says_so(small_run, small_pictures, tmp_path, capsys):
    lines = ["image,patient,grade"]
    for k, pixels in enumerate(list(small_pictures.values())[:6]):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,P{k},{('II', 'III', 'IV')[k % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = [f"--table={tmp_path / 't.csv'}", f"--checkpoint={small_run}"]
    assert main(["eval", *words, f"--out={tmp_path / 'out'}"]) == 0
    text, warned = capsys.readouterr()
    said = "6 of 6 images are training images of this model"
    assert said in text
    assert said in warned
    notes = json.loads((tmp_path / "out/eval.json").read_text())["notes"]
    assert said in notes[0]
