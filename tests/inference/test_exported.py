"""Exported files: same probabilities as the run, in the web page and without fof_jax.

Tolerance of probabilities: 1e-5 to those of the exported run.
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
from fof_jax.data.stain import macenko
from fof_jax.evaluation import predictions
from fof_jax.inference import exported, model_card
from fof_jax.inference.model import has_map
from tests.support import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(small_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.fof"
    words = ["export", "--to=stablehlo", f"--checkpoint={small_run}", f"--out={path}"]
    assert main(words) == 0
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Fifty images that no fold was trained on: the phantom of another seed."""
    folder = tmp_path_factory.mktemp("held_out")
    words = [
        "data",
        "build",
        "--config=phantom",
        "--config.data.regions=50",
        "--config.seed=7",
    ]
    assert main([*words, f"--config.data.dir={folder}"]) == 0
    opened = store.open_store(folder, "phantom")
    return [opened.native(i) for i in range(50)]


def served_probabilities(model, images):
    """Probabilities and spread that the server returns for PNG files: [n, 2, K]."""
    results = []
    with pages.served(model) as port:
        for pixels in images:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/grade", file.getvalue()
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                result = json.load(response)
            results.append([result["prob"], result["spread"]])
    return np.array(results)


def test_run_exported_file_and_page_agree(small_run, file, images):
    """Pages of both the run and the exported file."""
    trained, loaded = fof_jax.load(small_run), fof_jax.load(file)
    expected, grades = trained.predict(images), loaded.predict(images)
    assert len(grades.prob) == 50
    np.testing.assert_allclose(grades.prob, expected.prob, atol=1e-5)
    np.testing.assert_allclose(grades.spread, expected.spread, atol=1e-5)
    for model in (trained, loaded):
        page = served_probabilities(model, images)
        np.testing.assert_allclose(page[:, 0], expected.prob, atol=1e-5)
        np.testing.assert_allclose(page[:, 1], expected.spread, atol=1e-5)
    assert expected.spread.max() > 1e-4  # two folds that differ
    assert loaded.classes == trained.classes
    assert model_card.of_model(loaded) == model_card.of_model(trained)


def test_large_and_broken_images_are_handled_as_by_the_run(
    small_run, file, images, tmp_path
):
    large = np.concatenate([np.concatenate(images[:2]), np.concatenate(images[2:4])])
    (tmp_path / "no.png").write_text("no image")
    mixed = [large, tmp_path / "no.png", images[0]]
    expected = fof_jax.load(small_run).stream(mixed)
    loaded = fof_jax.load(file).stream(mixed)
    for one, other in zip(expected, loaded, strict=True):
        np.testing.assert_allclose(other.prob, one.prob, atol=1e-5)
        np.testing.assert_allclose(other.spread, one.spread, atol=1e-5)
        assert one.error == other.error


def test_predict_and_explain_with_an_exported_file(
    small_run, file, images, tmp_path, capsys
):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(images[i]).save(folder / f"{i}.png")
    tables = []
    for name, checkpoint in (("run", small_run), ("file", file)):
        words = [f"--checkpoint={checkpoint}", f"--images={folder}"]
        more = ["--no_pictures"] if name == "run" else []
        assert main(["predict", *words, f"--out={tmp_path / name}", *more]) == 0
        table = predictions.read_predictions(tmp_path / name / "predictions.csv")
        assert table.error == ("", "", "")
        tables.append(table.prob)
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-5)
    assert "no class activation maps" in capsys.readouterr().err
    assert not (tmp_path / "file" / "focus").exists()
    assert main(["explain", *words, f"--out={tmp_path / 'maps'}"]) == 2
    assert "no gradients" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def run_example(tmp_path, *words):
    """Runs the example with a fof_jax that raises on import."""
    (tmp_path / "fof_jax.py").write_text("raise ImportError('not here')")
    return subprocess.run(
        [sys.executable, ROOT / "examples/exported_model.py", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "rule", [pytest.param("macenko", marks=pytest.mark.slow), "none"]
)
def test_the_example_runs_without_fof_jax(small_run, file, images, tmp_path, rule):
    """The phantom uses macenko, as README's first run does; raw images, two sizes."""
    model = fof_jax.load(small_run)
    if rule == "none":
        model.config.data.stain = "none"
        file = tmp_path / "plain.fof"
        exported.write(file, model, card=model_card.of_model(model))
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, (name, pixels) in enumerate(zip(names, images, strict=False)):
        Image.fromarray(pixels[: 64 - 8 * i]).save(name)
    done = run_example(tmp_path, file, *names)
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


def test_the_example_rejects_what_it_does_not_prepare(file, images, tmp_path):
    Image.fromarray(np.concatenate([images[0], images[1]])).save(tmp_path / "large.png")
    Image.fromarray(images[0]).convert("P").save(tmp_path / "palette.png")
    for name in ("large.png", "palette.png"):
        done = run_example(tmp_path, file, name)
        assert done.returncode == 1
        assert f"{name}: " in done.stderr
        assert "launch.py predict" in done.stderr


@pytest.mark.slow  # a program for each size
def test_the_stain_program_is_the_normalization_of_training(file, images, tmp_path):
    """Against NumPy: single levels where the last digit of float64 decides."""
    with zipfile.ZipFile(file) as whole:
        program = jax.export.deserialize(bytearray(whole.read("stain.stablehlo")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    rng = np.random.default_rng(0)
    large = np.kron(images[0], np.ones((12, 10, 1), np.uint8))  # estimated from a grid
    cases = [
        *images[:6],
        images[6][:40],
        large,
        rng.integers(0, 256, (9, 30, 3), np.uint8),
    ]
    cases += [np.full((20, 20, 3), 244, np.uint8), np.zeros((30, 30, 3), np.uint8)]
    changed = 0
    for pixels in cases:
        expected = macenko(pixels)
        got = np.asarray(program.call(pixels))
        difference = np.abs(got.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
        changed += bool((expected != pixels).any())
    assert changed >= 8


def test_the_card_states_the_stain_normalization(file, small_run):
    card = fof_jax.load(file).card
    assert "Macenko-normalized" in card
    assert "stain.stablehlo" in card
    plain = fof_jax.load(small_run)
    plain.config.data.stain, plain.config.data.color = "none", False
    card = model_card.of_model(plain)
    assert "Macenko" not in card
    assert "grayscale, standardized per image" in card


def test_metadata_and_model_card_in_the_file(file, small_run):
    with zipfile.ZipFile(file) as whole:
        about = json.loads(whole.read("about.json"))
        card = whole.read("model_card.md").decode()
    assert about["classes"] == ["II", "III", "IV"]
    assert about["image_size"] == 64
    assert about["folds"] == ["fold_0", "fold_1"]
    assert about["normalisation"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    results = json.loads((small_run / "results.json").read_text())
    auc = results["units"]["patient"]["macro"]["mean"]["auc"]
    assert f"{100 * auc:.2f}" in card
    assert "patient split" in card.lower()
    assert "Research use only; not for diagnosis." in card
    assert f"jax {jax.__version__}" in card


def test_it_is_lowered_for_all_platforms_and_any_batch_size(file):
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


def test_an_exported_model_has_no_gradients_and_is_not_exported_again(file):
    model = fof_jax.load(file)
    assert not has_map(model)
    assert not hasattr(model, "explain")
    assert not hasattr(model, "features")
    with pytest.raises(ValueError, match="exported file already"):
        exported.write(file, model, card=model_card.of_model(model))


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_rejected(file, tmp_path, kept):
    whole = file.read_bytes()
    part = tmp_path / "part.fof"
    part.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="not an intact file"):
        fof_jax.load(part)


def test_a_changed_byte_is_detected(file, tmp_path):
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "changed.fof").write_bytes(whole)
    with pytest.raises(ValueError, match="not an intact file"):
        fof_jax.load(tmp_path / "changed.fof")


def test_a_failed_export_writes_nothing(small_run, tmp_path, capsys):
    words = ["export", "--to=stablehlo", f"--checkpoint={small_run}"]
    assert main([*words, f"--out={tmp_path}"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([*words, f"--out={tmp_path}/a", "--whole"]) == 2
    assert "--whole requires --to=release" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_hf_export_states_the_stain_normalization(small_run, tmp_path, capsys):
    """In the processor's config, in the card, in about.json and on the terminal."""
    words = ["export", "--to=hf", f"--checkpoint={small_run}/fold_0"]
    assert main([*words, f"--out={tmp_path}/hf"]) == 0
    assert "normalized by macenko" in capsys.readouterr().out
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert processor["stain_normalization"] == "macenko"
    assert processor["resample"] == Image.Resampling.BICUBIC
    assert "Macenko-normalized" in (tmp_path / "hf/README.md").read_text()
    about = json.loads((tmp_path / "hf/about.json").read_text())
    assert about["stain"] == "macenko"
    assert about["classes"] == ["II", "III", "IV"]
