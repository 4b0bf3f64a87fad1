"""Trained models: probabilities of the run, ensembles, tiles, class activation maps.

Tolerance of probabilities: 1e-5 to those in predictions.csv.
"""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data.augment import pipeline
from fof_jax.data.stain import macenko
from fof_jax.inference import tiling


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run)


def saved_probabilities(small_run, fold):
    with (small_run / f"fold_{fold}/predictions.csv").open() as file:
        return {
            row["image"]: [float(row[f"p_{k}"]) for k in range(3)]
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("fold", [0, 1])
def test_a_fold_reproduces_its_predictions(small_run, small_pictures, fold):
    expected = saved_probabilities(small_run, fold)
    grades = fof_jax.load(small_run / f"fold_{fold}").predict(
        [small_pictures[name] for name in expected]
    )
    np.testing.assert_allclose(grades.prob, list(expected.values()), atol=1e-5)
    assert (grades.spread == 0).all()


def test_a_run_is_the_mean_over_its_folds(small_run, model, small_pictures):
    some = list(small_pictures.values())[:3]
    each = [fof_jax.load(small_run / f"fold_{k}").predict(some).prob for k in (0, 1)]
    grades = model.predict(some)
    np.testing.assert_allclose(grades.prob, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(grades.spread, np.std(each, axis=0), atol=1e-6)
    best = grades.prob.argmax(axis=1)
    assert grades.pred == tuple(model.classes[k] for k in best)


def test_a_copied_fold_is_self_contained(small_run, model, small_pictures, tmp_path):
    shutil.copytree(small_run / "fold_1", tmp_path / "elsewhere")
    one = list(small_pictures.values())[:1]
    moved = fof_jax.load(tmp_path / "elsewhere").predict(one).prob
    here = fof_jax.load(small_run / "fold_1").predict(one).prob
    np.testing.assert_array_equal(moved, here)


def test_files_pil_images_and_arrays_are_equivalent(model, small_pictures, tmp_path):
    pixels = next(iter(small_pictures.values()))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    same = [pixels, Image.fromarray(pixels), tmp_path / "a.png", tmp_path / "a.tif"]
    prob = model.predict(same).prob
    np.testing.assert_allclose(prob, np.repeat(prob[:1], 4, axis=0), atol=1e-6)


def test_a_larger_image_is_the_mean_over_its_tiles(small_run, small_pictures):
    model = fof_jax.load(small_run / "fold_0")
    several = list(small_pictures.values())[:4]
    large = np.concatenate(
        [np.concatenate(several[:2], axis=1), np.concatenate(several[2:], axis=1)]
    )[:, :100]
    plain = fof_jax.load(small_run / "fold_0")
    plain.config.data.stain = "none"
    stained = macenko(large)  # of the whole image, before tiling
    at = tiling.corners(128, 100, 64)
    tiles = [stained[y : y + 64, x : x + 64] for y, x in at]
    expected = plain.predict(tiles).prob.mean(axis=0)
    np.testing.assert_allclose(model.predict([large]).prob[0], expected, atol=1e-6)
    result = model.explain(large)
    assert result.A.shape == (128, 100)
    assert result.keep.shape == (8, 6)
    patches = result.A[:, :96].reshape(8, 16, 6, 16).mean(axis=(1, 3))
    np.testing.assert_array_equal(result.keep, patches > model.config.theta)


def test_explain_computes_the_map_of_the_method(small_run, small_pictures):
    """Tolerance 1e-5: compiled for another batch size."""
    model = fof_jax.load(small_run / "fold_0")
    pixels = next(iter(small_pictures.values()))
    result = model.explain(pixels, "IV")
    (variables,) = model.folds.values()
    image = pipeline.normalize(jnp.asarray(macenko(pixels))[None])
    A = jax.jit(model.method.class_activation_map)(variables, image, jnp.array([2]))
    np.testing.assert_allclose(result.A, A[0], atol=1e-5)
    np.testing.assert_array_equal(result.keep, model.method.patch_mask(A)[0])
    assert result.target == "IV"
    assert model.explain(pixels).target == model.predict([pixels]).pred[0]


def test_features_are_ordered_by_fold_and_image(small_run, model, small_pictures):
    some = list(small_pictures.values())[:2]
    v = model.features(some)
    assert v.shape == (2, 2, 64)
    alone = fof_jax.load(small_run / "fold_1").features(some[1:])
    np.testing.assert_allclose(v[1, 1], alone[0, 0], atol=1e-5)


def test_an_unreadable_image_is_a_row_with_an_error(model, small_pictures, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    good = next(iter(small_pictures.values()))
    rows = list(model.stream([good, tmp_path / "no.png", tmp_path / "gone.png", good]))
    assert [bool(row.error[0]) for row in rows] == [False, True, True, False]
    assert rows[1].pred == ("",)
    assert np.isnan(rows[1].prob).all()
    np.testing.assert_array_equal(rows[0].prob, rows[3].prob)
    with pytest.raises(ValueError, match="no.png"):
        model.predict([tmp_path / "no.png"])


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere", "does not exist"), (".", "no model.json")],
)
def test_loading_anything_else_is_rejected(tmp_path, path, words):
    with pytest.raises(ValueError, match=words):
        fof_jax.load(tmp_path / path)


def test_an_unknown_class_is_rejected(model, small_pictures):
    with pytest.raises(ValueError, match="V.*does not exist"):
        model.explain(next(iter(small_pictures.values())), "V")
    with pytest.raises(AttributeError, match="lod"):
        fof_jax.lod  # noqa: B018


def test_one_image_is_a_row_of_its_own(small_run, small_pictures, tmp_path):
    """A path, a string, a PIL image or an array instead of a list."""
    model = fof_jax.load(small_run)
    pixels = next(iter(small_pictures.values()))
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = model.predict([pixels]).prob
    assert expected.shape == (1, 3)
    for image in (path, str(path), Image.open(path), pixels):
        np.testing.assert_array_equal(model.predict(image).prob, expected)


def test_a_model_is_shown_in_one_line(small_run, capfd):
    model = fof_jax.load(small_run)
    assert repr(model) == (
        "<TrainedModel: fof, mu/16 at 64 px, classes II, III, IV, 2 folds>"
    )
    assert capfd.readouterr() == ("", "")


def test_files_of_file_managers_are_ignored(small_run, tmp_path, capsys):
    """.DS_Store and Thumbs.db in every folder; a damaged file is still found."""
    run = shutil.copytree(small_run, tmp_path / "run")
    for folder in [run, *(p for p in run.rglob("*") if p.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "Thumbs.db").write_bytes(b"x")
    pixels = np.zeros((64, 64, 3), np.uint8)
    expected = fof_jax.load(small_run).predict(pixels).prob
    np.testing.assert_array_equal(fof_jax.load(run).predict(pixels).prob, expected)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = [f"--checkpoint={run}", f"--images={tmp_path / 'a.png'}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 0
    step = next((run / "fold_0/checkpoints").glob("[0-9]*"))
    part = max(step.rglob("*"), key=lambda p: p.stat().st_size)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert main(["predict", *words, f"--out={tmp_path / 'new'}"]) == 2
    assert "is damaged or missing" in capsys.readouterr().err


def test_classes_that_an_earlier_run_holds_as_numbers(small_run, tmp_path):
    """Version 0.1 trained with data.classes=(2,3,4) and then failed to predict."""
    fold = shutil.copytree(small_run / "fold_0", tmp_path / "fold_0")
    about = json.loads((fold / "model.json").read_text())
    about["config"]["data"]["classes"] = [2, 3, 4]
    (fold / "model.json").write_text(json.dumps(about))
    Image.new("RGB", (64, 64), (200, 90, 160)).save(tmp_path / "a.png")
    words = [f"--checkpoint={fold}", f"--images={tmp_path / 'a.png'}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["pred"] in ("2", "3", "4")
    assert float(row["p_" + row["pred"]]) == max(
        float(row[f"p_{k}"]) for k in (2, 3, 4)
    )
    assert main(["explain", *words, "--target=4", f"--out={tmp_path / 'maps'}"]) == 0
