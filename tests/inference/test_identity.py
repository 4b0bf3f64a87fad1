"""What a resumed job and the folds of an ensemble have in common, by content."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import batch, inputs


@pytest.fixture
def run(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def images(small_pictures, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k, pixels in enumerate(list(small_pictures.values())[:4]):
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


def stop_after(monkeypatch, verb, count):
    """The next call of the verb is interrupted after some images."""

    def progress_to(*_, **__):
        def report_progress(done, total):
            if done == count:
                raise KeyboardInterrupt

        return report_progress

    monkeypatch.setattr(f"fof_jax.cli.{verb}.progress_to", progress_to)


def words(verb, run, images, out):
    plain = ["--no_pictures"] if verb == "predict" else []
    return [verb, f"--checkpoint={run}", f"--images={images}", f"--out={out}", *plain]


@pytest.mark.parametrize(
    "verb", ["predict", pytest.param("explain", marks=pytest.mark.slow)]
)
def test_a_fold_that_was_finished_meanwhile_is_refused(
    run, images, tmp_path, monkeypatch, capsys, verb
):
    argv = words(verb, run, images, tmp_path / "out")
    table = run / "fold_1/predictions.csv"
    aside = table.rename(tmp_path / "aside.csv")
    with monkeypatch.context() as patch:
        stop_after(patch, verb, 2)
        assert main(argv) == 130
    aside.rename(table)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert "folds: fold_0 then, fold_0, fold_1 now" in message
    assert "model: " in message
    table.rename(aside)  # as it was: resumed
    assert main(argv) == 0


def test_a_replaced_image_is_refused_and_named(
    run, images, tmp_path, monkeypatch, capsys
):
    argv = words("predict", run, images, tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_after(patch, "predict", 2)
        assert main(argv) == 130
    kept = (images / "1.png").stat()
    Image.open(images / "0.png").save(images / "1.png")
    assert main(argv) == 2
    assert "images that have changed: 1.png" in capsys.readouterr().err
    assert kept.st_mtime_ns != (images / "1.png").stat().st_mtime_ns


def test_a_copy_of_the_model_resumes(run, images, tmp_path, monkeypatch):
    argv = words("predict", run, images, tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_after(patch, "predict", 2)
        assert main(argv) == 130
    copy = run.rename(tmp_path / "elsewhere")
    assert main(words("predict", copy, images, tmp_path / "out")) == 0
    whole = tmp_path / "whole"
    assert main(words("predict", copy, images, whole)) == 0
    first, second = (
        np.genfromtxt(folder / "predictions.csv", delimiter=",", skip_header=1)[:, 6:9]
        for folder in (tmp_path / "out", whole)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_two_jobs_do_not_share_an_output_folder(run, images, tmp_path):
    model, found = fof_jax.load(run), inputs.find(images)
    out, messages = tmp_path / "out", []

    def second_start(done, total):
        if done == 2:
            with pytest.raises(ValueError, match="in use by process") as caught:
                batch.predict(
                    model, found, out, plots=False, report_progress=lambda *_: None
                )
            messages.append(str(caught.value))

    table = batch.predict(model, found, out, plots=False, report_progress=second_start)
    assert len(table) == len(found) == 4
    assert f"process {os.getpid()}" in messages[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "patients.csv", "predictions.csv"
    ]  # fmt: skip


def edit(fold, change):
    path = fold / "model.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a["config"]["data"].update(classes=["IV", "III", "II"]),
            r"data_classes: \['II', 'III', 'IV'\] in fold_0, \['IV', 'III', 'II'\]",
        ),
        (lambda a: a["config"]["data"].update(image_size=32), "data_image_size: 64 in"),
        (lambda a: a["config"].update(seed=7), "seed: 42 in fold_0, 7 in fold_1"),
        (lambda a: a.update(sides=[32, 64]), "sides of the training images"),
        (lambda a: a.clear(), "is not what training writes"),
    ],
)
def test_folds_of_two_models_are_not_averaged(run, change, message):
    edit(run / "fold_1", change)
    with pytest.raises(ValueError, match=message):
        fof_jax.load(run)


def test_fields_that_do_not_change_numbers_may_differ(run):
    edit(run / "fold_1", lambda about: about["config"].update(fold=1, log_every=7))
    assert len(fof_jax.load(run).fold_names) == 2


@pytest.mark.parametrize("name", ["fold_01", "fold_7"])
def test_a_stray_fold_is_named(run, images, tmp_path, capsys, name):
    shutil.copytree(run / "fold_1", run / name)
    for verb in ("predict", "explain"):
        assert main(words(verb, run, images, tmp_path / verb)) == 2
        assert f"{name} in {run} is not a fold" in capsys.readouterr().err
    assert len(fof_jax.load(run / name).fold_names) == 1
