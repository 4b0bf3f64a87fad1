"""A trained model, loaded: the run's own probabilities, ensembles, tiles, maps.

Probabilities are held to 1e-5 of those that training wrote down.
"""

import csv
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.data.augment import pipeline
from fof_jax.data.stain import macenko
from fof_jax.inference import tiling


@pytest.fixture(scope="module")
def workdir(small_run):
    return small_run


@pytest.fixture(scope="module")
def model(workdir):
    return fof_jax.load(workdir)


@pytest.fixture(scope="module")
def pictures(small_pictures):
    return small_pictures


def written(workdir, fold):
    with (workdir / f"fold_{fold}/predictions.csv").open() as file:
        return {
            row["image"]: [float(row[f"p_{k}"]) for k in range(3)]
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("fold", [0, 1])
def test_a_fold_gives_the_probabilities_that_its_test_wrote(workdir, pictures, fold):
    expected = written(workdir, fold)
    grades = fof_jax.load(workdir / f"fold_{fold}").predict(
        [pictures[name] for name in expected]
    )
    np.testing.assert_allclose(grades.prob, list(expected.values()), atol=1e-5)
    assert (grades.spread == 0).all()


def test_a_run_is_the_mean_of_its_folds(workdir, model, pictures):
    some = list(pictures.values())[:3]
    each = [fof_jax.load(workdir / f"fold_{k}").predict(some).prob for k in (0, 1)]
    grades = model.predict(some)
    np.testing.assert_allclose(grades.prob, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(grades.spread, np.std(each, axis=0), atol=1e-6)
    best = grades.prob.argmax(axis=1)
    assert grades.pred == tuple(model.classes[k] for k in best)


def test_a_fold_travels_alone(workdir, model, pictures, tmp_path):
    shutil.copytree(workdir / "fold_1", tmp_path / "elsewhere")
    one = list(pictures.values())[:1]
    moved = fof_jax.load(tmp_path / "elsewhere").predict(one).prob
    here = fof_jax.load(workdir / "fold_1").predict(one).prob
    np.testing.assert_array_equal(moved, here)


def test_files_and_pil_images_are_read_as_arrays_are(model, pictures, tmp_path):
    pixels = next(iter(pictures.values()))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    same = [pixels, Image.fromarray(pixels), tmp_path / "a.png", tmp_path / "a.tif"]
    prob = model.predict(same).prob
    np.testing.assert_allclose(prob, np.repeat(prob[:1], 4, axis=0), atol=1e-6)


def test_a_larger_image_is_the_mean_of_its_tiles(workdir, pictures):
    model = fof_jax.load(workdir / "fold_0")
    several = list(pictures.values())[:4]
    large = np.concatenate(
        [np.concatenate(several[:2], axis=1), np.concatenate(several[2:], axis=1)]
    )[:, :100]
    plain = fof_jax.load(workdir / "fold_0")
    plain.config.data.stain = "none"
    stained = macenko(large)  # as a whole, before it is cut
    at = tiling.corners(128, 100, 64)
    tiles = [stained[y : y + 64, x : x + 64] for y, x in at]
    expected = plain.predict(tiles).prob.mean(axis=0)
    np.testing.assert_allclose(model.predict([large]).prob[0], expected, atol=1e-6)
    focus = model.explain(large)
    assert focus.A.shape == (128, 100)
    assert focus.keep.shape == (8, 6)
    patches = focus.A[:, :96].reshape(8, 16, 6, 16).mean(axis=(1, 3))
    np.testing.assert_array_equal(focus.keep, patches > model.config.theta)


def test_the_map_is_that_of_the_method(workdir, pictures):
    """1e-5: the same program, in batches of another size."""
    model = fof_jax.load(workdir / "fold_0")
    pixels = next(iter(pictures.values()))
    focus = model.explain(pixels, "IV")
    (variables,) = model.folds.values()
    image = pipeline.normalise(jnp.asarray(macenko(pixels))[None])
    A = jax.jit(model.method.explain)(variables, image, jnp.array([2]))
    np.testing.assert_allclose(focus.A, A[0], atol=1e-5)
    np.testing.assert_array_equal(focus.keep, model.method.keep(A)[0])
    assert focus.target == "IV"
    assert model.explain(pixels).target == model.predict([pixels]).pred[0]


def test_features_come_in_the_order_of_folds_and_images(workdir, model, pictures):
    some = list(pictures.values())[:2]
    v = model.features(some)
    assert v.shape == (2, 2, 64)
    alone = fof_jax.load(workdir / "fold_1").features(some[1:])
    np.testing.assert_allclose(v[1, 1], alone[0, 0], atol=1e-5)


def test_what_cannot_be_read_is_a_row_with_a_reason(model, pictures, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    good = next(iter(pictures.values()))
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
def test_what_is_no_model_is_refused(tmp_path, path, words):
    with pytest.raises(ValueError, match=words):
        fof_jax.load(tmp_path / path)


def test_an_unknown_class_is_refused(model, pictures):
    with pytest.raises(ValueError, match="V.*does not exist"):
        model.explain(next(iter(pictures.values())), "V")
    with pytest.raises(AttributeError, match="lod"):
        fof_jax.lod  # noqa: B018
