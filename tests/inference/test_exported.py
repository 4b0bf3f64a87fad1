"""An exported file: the checkpoint's own probabilities, in a page and without fof_jax.

Probabilities are held to 1e-5 of those of the folder that was exported.
"""

import io
import json
import os
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data import store
from fof_jax.evaluation import predictions
from fof_jax.inference import exported, model_card
from tests.support import pages

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--config=phantom",
    "--config.data.regions=18",
    "--config.folds=2",
    "--config.epochs=1",
    "--config.batch_size=4",
    "--config.encoder=mu/16",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert main([*FLAGS, f"--config.data.dir={data}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def file(workdir, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.fof"
    words = ["export", "--to=stablehlo", f"--checkpoint={workdir}", f"--out={path}"]
    assert main(words) == 0
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Fifty images that no fold has seen: the same drawing, from another seed."""
    at = tmp_path_factory.mktemp("held_out")
    words = ["data", "build", FLAGS[0], "--config.data.regions=50", "--config.seed=7"]
    assert main([*words, f"--config.data.dir={at}"]) == 0
    opened = store.open_store(at, "phantom")
    return [opened.native(i) for i in range(50)]


def from_the_page(model, pictures):
    """What a page answers to PNG files, sent one after the other: [n, 2, K]."""
    found = []
    with pages.served(model) as port:
        for pixels in pictures:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/grade", file.getvalue()
            )
            with urllib.request.urlopen(asked, timeout=120) as answer:
                said = json.load(answer)
            found.append([said["prob"], said["spread"]])
    return np.array(found)


def test_run_file_and_page_give_the_same_probabilities(workdir, file, pictures):
    """Two pages: of the run, which explains as well, and of the file."""
    here, there = fof_jax.load(workdir), fof_jax.load(file)
    expected, grades = here.predict(pictures), there.predict(pictures)
    assert len(grades.prob) == 50
    np.testing.assert_allclose(grades.prob, expected.prob, atol=1e-5)
    np.testing.assert_allclose(grades.spread, expected.spread, atol=1e-5)
    for model in (here, there):
        page = from_the_page(model, pictures)
        np.testing.assert_allclose(page[:, 0], expected.prob, atol=1e-5)
        np.testing.assert_allclose(page[:, 1], expected.spread, atol=1e-5)
    assert expected.spread.max() > 1e-4  # two folds that differ
    assert there.classes == here.classes
    assert model_card.of_model(there) == model_card.of_model(here)


def test_a_large_image_and_a_broken_one_are_taken_as_from_a_run(
    workdir, file, pictures, tmp_path
):
    large = np.concatenate(
        [np.concatenate(pictures[:2]), np.concatenate(pictures[2:4])]
    )
    (tmp_path / "no.png").write_text("no image")
    mixed = [large, tmp_path / "no.png", pictures[0]]
    here = list(fof_jax.load(workdir).stream(mixed))
    there = list(fof_jax.load(file).stream(mixed))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other.prob, one.prob, atol=1e-5)
        np.testing.assert_allclose(other.spread, one.spread, atol=1e-5)
        assert one.error == other.error


def test_the_verbs_take_a_file(workdir, file, pictures, tmp_path, capsys):
    """predict as a user types it, pictures and all that is the default; explain."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(pictures[i]).save(folder / f"{i}.png")
    tables = []
    for name, checkpoint in (("run", workdir), ("file", file)):
        words = [f"--checkpoint={checkpoint}", f"--images={folder}"]
        assert main(["predict", *words, f"--out={tmp_path / name}"]) == 0
        table = predictions.read_predictions(tmp_path / name / "predictions.csv")
        assert table.error == ("", "", "")
        tables.append(table.prob)
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-5)
    assert "no pictures of the focus" in capsys.readouterr().err
    assert not (tmp_path / "file" / "focus").exists()
    assert main(["explain", *words, f"--out={tmp_path / 'maps'}"]) == 2
    assert "no gradients" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def example(tmp_path, *words):
    """The package is shadowed by one that raises when it is imported."""
    (tmp_path / "fof_jax.py").write_text("raise ImportError('not here')")
    return subprocess.run(
        [sys.executable, ROOT / "examples/exported_model.py", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_the_example_refuses_what_it_does_not_prepare(file, tmp_path):
    done = example(tmp_path, file)
    assert done.returncode == 1
    assert "macenko" in done.stderr
    assert "launch.py predict" in done.stderr


def test_the_example_runs_where_there_is_no_fof_jax(workdir, pictures, tmp_path):
    model = fof_jax.load(workdir)
    model.config.data.stain = "none"  # the phantom's run asks for macenko
    file = tmp_path / "plain.fof"
    exported.write(file, model, card=model_card.of_model(model))
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for name, pixels in zip(names, pictures, strict=False):
        Image.fromarray(pixels).save(name)
    done = example(tmp_path, file, *names)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    expected = model.predict(names)
    for line, name, p, s in zip(
        lines, names, expected.prob, expected.spread, strict=True
    ):
        first, *shown = line.split()
        values = [float(v) for word in shown[1::2] for v in word.split("±")]
        assert first == name
        assert tuple(shown[::2]) == ("II", "III", "IV")
        np.testing.assert_allclose(values[::2], p, atol=1e-5)
        np.testing.assert_allclose(values[1::2], s, atol=1e-5)
    assert "not for diagnosis" in last


def test_the_file_says_what_it_is(file, workdir):
    with zipfile.ZipFile(file) as whole:
        about = json.loads(whole.read("about.json"))
        card = whole.read("model_card.md").decode()
    assert about["classes"] == ["II", "III", "IV"]
    assert about["image_size"] == 64
    assert about["folds"] == ["fold_0", "fold_1"]
    assert about["normalisation"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    results = json.loads((workdir / "results.json").read_text())
    auc = results["units"]["patient"]["macro"]["mean"]["auc"]
    assert f"{100 * auc:.2f}" in card
    assert "patient split" in card.lower()
    assert "Research use only; not for diagnosis." in card
    assert f"jax {jax.__version__}" in card


def test_it_is_lowered_for_every_platform_with_any_batch(file):
    with zipfile.ZipFile(file) as whole:
        program = jax.export.deserialize(bytearray(whole.read("model.stablehlo")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    (image,) = program.in_avals
    assert str(image.shape) == "(b, 64, 64, 3)"
    assert image.dtype == np.uint8
    for count in (1, 3):
        shape = (count, 64, 64, 3)
        prob, _, folds = program.call(np.zeros(shape, np.uint8))
        assert prob.shape == (count, 3)
        assert folds.shape == (2, count, 3)
        np.testing.assert_allclose(prob.sum(axis=1), 1, atol=1e-6)


def test_what_needs_gradients_is_refused(file, pictures):
    model = fof_jax.load(file)
    with pytest.raises(ValueError, match="without gradients"):
        model.explain(pictures[0])
    with pytest.raises(ValueError, match="without gradients"):
        model.features(pictures[:1])
    with pytest.raises(ValueError, match="exported file already"):
        exported.write(file, model, card=model_card.of_model(model))


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_damaged_file_is_refused(file, tmp_path, kept):
    whole = file.read_bytes()
    part = tmp_path / "part.fof"
    part.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="no whole file"):
        fof_jax.load(part)


def test_a_changed_byte_is_seen(file, tmp_path):
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "changed.fof").write_bytes(whole)
    with pytest.raises(ValueError, match="no whole file"):
        fof_jax.load(tmp_path / "changed.fof")


def test_a_failed_export_leaves_nothing(workdir, tmp_path, capsys):
    words = ["export", "--to=stablehlo", f"--checkpoint={workdir}"]
    assert main([*words, f"--out={tmp_path}"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([*words, f"--out={tmp_path}/a", "--whole"]) == 2
    assert "--to=release alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
