"""Commands `predict` and `explain`: tables, plots, arrays, resuming, broken input."""

import csv
import errno
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data import progress as data_progress
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import inputs, pictures, provenance, visualization


@pytest.fixture(scope="module")
def folder(small_pictures, tmp_path_factory):
    """Images of several sizes and formats, one of them broken."""
    folder = tmp_path_factory.mktemp("images")
    a, b, c = list(small_pictures.values())[:3]
    (folder / "below").mkdir()
    Image.fromarray(a).save(folder / "a.png")
    Image.fromarray(b).save(folder / "below" / "b.tif")
    large = np.concatenate([np.concatenate([a, b], axis=1)] * 2)[:, :100]
    Image.fromarray(large).save(folder / "large.png")
    Image.fromarray(c).convert("L").save(folder / "a.jpg", quality=95)
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:400])
    (folder / "notes.txt").write_text("no image")
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_tables_and_plots(small_run, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [f"--checkpoint={small_run}", f"--images={folder}", f"--out={out}"]
    assert main(["predict", *words]) == 0
    printed = capsys.readouterr()
    assert "4 of 5 images graded" in printed.out
    assert "torn.png" in printed.err
    rows = {row["image"]: row for row in table(out / "predictions.csv")}
    assert set(rows) == {"a.jpg", "a.png", "below/b.tif", "large.png", "torn.png"}
    assert rows["torn.png"]["error"]
    assert rows["torn.png"]["p_IV"] == ""
    model = fof_jax.load(small_run)
    grades = model.predict([folder / "a.png", folder / "large.png"])
    for i, name in enumerate(("a.png", "large.png")):
        row = rows[name]
        prob = [float(row[f"p_{name}"]) for name in model.classes]
        spread = [float(row[f"s_{name}"]) for name in model.classes]
        np.testing.assert_allclose(prob, grades.prob[i], atol=1e-5)
        np.testing.assert_allclose(spread, grades.spread[i], atol=1e-5)
        assert row["pred"] == grades.pred[i]
        assert model.classes[int(row["pred_index"])] == grades.pred[i]
    # The tables can be read as those of the other commands.
    assert len(read_predictions(out / "predictions.csv")) == 5
    patients = table(out / "patients.csv")
    assert len(patients) == 4
    assert {row["pred"] for row in patients} <= {"II", "III", "IV"}
    about = json.loads((out / "about.json").read_text())
    assert about["classes"] == ["II", "III", "IV"]
    assert about["checkpoint"] == str(small_run)
    assert about["checkpoint_sha256"] == provenance.model_hash(model)
    assert about["version"] == fof_jax.__version__
    assert about["scale"]["image_size"] == 64
    assert about["slides"] == {"mpp": 0.5, "slide_mpp": None}
    assert about["stain"] == "macenko"
    assert (about["images"], about["without_a_grade"]) == (5, 1)
    assert "not for diagnosis" in about["use"]
    plots = {path.name for path in (out / "focus").iterdir()}
    assert plots == {"a.jpg.png", "a.png.png", "below__b.png", "large.png"}
    with Image.open(out / "focus" / "large.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


@pytest.mark.slow
def test_tables_without_plots_have_the_same_values(small_run, folder, tmp_path):
    for name, more in (("a", []), ("b", ["--no_pictures"])):
        words = [f"--checkpoint={small_run}", f"--images={folder}"]
        assert main(["predict", *words, f"--out={tmp_path / name}", *more]) == 0
    with_plots = read_predictions(tmp_path / "a" / "predictions.csv")
    without = read_predictions(tmp_path / "b" / "predictions.csv")
    np.testing.assert_allclose(with_plots.prob, without.prob, atol=1e-5)
    assert not (tmp_path / "b" / "focus").exists()


def test_an_input_table_gives_patients_and_grades(small_run, folder, tmp_path):
    listed = folder / "listed.csv"
    listed.write_text("image,patient,grade\na.png,P1,II\nbelow/b.tif,P1,II\na.jpg,,\n")
    words = [f"--checkpoint={small_run}", f"--images={listed}", f"--out={tmp_path}"]
    assert main(["predict", *words, "--no_pictures"]) == 0
    images = table(tmp_path / "predictions.csv")
    assert [row["y"] for row in images] == ["II", "II", ""]
    first, second = table(tmp_path / "patients.csv")
    assert (first["patient"], second["patient"]) == ("P1", "a.jpg")
    names = ("p_II", "p_III", "p_IV")
    mean = np.mean([[float(r[k]) for k in names] for r in images[:2]], axis=0)
    np.testing.assert_allclose([float(first[k]) for k in names], mean)


def test_explain_writes_the_map_of_the_target_class(small_run, folder, tmp_path):
    words = [f"--checkpoint={small_run}/fold_0", f"--images={folder / 'a.png'}"]
    assert main(["explain", *words, "--target=III", f"--out={tmp_path}"]) == 0
    A = np.load(tmp_path / "a.npy")
    expected = fof_jax.load(small_run / "fold_0").explain(folder / "a.png", "III").A
    np.testing.assert_allclose(A, expected, atol=1e-6)
    assert A.dtype == np.float32
    assert (tmp_path / "a.png").exists()
    about = json.loads((tmp_path / "about.json").read_text())
    assert (about["command"], about["target"]) == ("explain", "III")
    assert about["folds"] == ["fold_0"]


def test_the_hash_is_of_the_weights(small_run, tmp_path):
    """Equal for a copy, another for another fold; an exported file has its own."""
    first, second = (fof_jax.load(small_run / f"fold_{k}") for k in (0, 1))
    copy = shutil.copytree(small_run / "fold_0", tmp_path / "fold_7")
    assert provenance.model_hash(fof_jax.load(copy)) == provenance.model_hash(first)
    assert provenance.model_hash(second) != provenance.model_hash(first)


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("predict", {"images": "gone"}, "does not exist"),
        ("predict", {"images": "empty"}, "holds no"),
        ("predict", {"images": "bad.csv"}, "is missing"),
        ("predict", {"images": "twice.csv"}, "twice"),
        ("predict", {"images": "grade.csv"}, "not among the model's classes"),
        ("predict", {"checkpoint": "empty"}, "no model.json"),
        ("predict", {"out": "bad.csv"}, "is a file"),
        ("explain", {"more": "--target=V"}, "does not exist"),
    ],
)
def test_invalid_input_is_reported(
    small_run, folder, tmp_path, capsys, verb, flags, words
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("name\na.png\n")
    (tmp_path / "twice.csv").write_text("image\na.png\na.png\n")
    (tmp_path / "grade.csv").write_text("image,grade\na.png,V\n")
    paths = {name: str(tmp_path / value) for name, value in flags.items()}
    argv = [
        f"--checkpoint={paths.get('checkpoint', small_run)}",
        f"--images={paths.get('images', folder)}",
        f"--out={paths.get('out', tmp_path / 'out')}",
    ]
    argv += [flags["more"]] if "more" in flags else []
    assert main([verb, *argv]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_predict_and_explain(
    small_run, folder, tmp_path, monkeypatch, capsys
):
    def full(explanation, plot, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(plot))

    monkeypatch.setattr(pictures, "plot_explanation", full)
    for verb in ("predict", "explain"):
        flags = [f"--checkpoint={small_run}", f"--images={folder}"]
        assert main([verb, *flags, f"--out={tmp_path / verb}"]) == 2
        assert "No space left on device" in capsys.readouterr().err
        assert not (tmp_path / verb / "predictions.csv").exists()


def test_only_broken_images_are_a_failure(small_run, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no")
    words = [f"--checkpoint={small_run}", f"--images={tmp_path}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 1
    assert "0 of 1 images graded" in capsys.readouterr().out


def test_a_killed_job_resumes_after_its_last_complete_row(
    small_run, folder, tmp_path, monkeypatch, capsys
):
    words = ["predict", f"--checkpoint={small_run}", f"--images={folder}"]
    words.append("--no_pictures")
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "killed"
    progress_to = data_progress.progress_to

    def killing(*flags, **more):
        def report_progress(done, total):
            if done == 3:
                raise KeyboardInterrupt

        return report_progress

    monkeypatch.setattr("fof_jax.cli.predict.progress_to", killing)
    assert main([*words, f"--out={out}"]) == 130
    monkeypatch.setattr("fof_jax.cli.predict.progress_to", progress_to)
    # There are no final tables, and another job is rejected.
    assert [path.name for path in out.iterdir()] == [".unfinished"]
    other = [*words[:2], f"--images={folder / 'a.png'}", f"--out={out}"]
    assert main(other) == 2
    assert "another unfinished job" in capsys.readouterr().err
    rows = out / ".unfinished" / "predictions.csv"
    kept = rows.read_text()
    assert len(kept.splitlines()) == 4
    rows.write_text(kept + "large.png,lar")  # killed while writing
    assert main([*words, f"--out={out}"]) == 0
    assert "2/2 images" in capsys.readouterr().out
    files = {"about.json", "patients.csv", "predictions.csv"}
    assert {path.name for path in out.iterdir()} == files
    again = read_predictions(out / "predictions.csv")
    whole = read_predictions(tmp_path / "whole" / "predictions.csv")
    assert again.image == whole.image
    np.testing.assert_allclose(again.prob, whole.prob, atol=1e-6)


@pytest.mark.slow
def test_explain_resumes_after_being_killed(small_run, folder, tmp_path, monkeypatch):
    words = ["explain", f"--checkpoint={small_run}/fold_0", f"--images={folder}"]
    saved, plot = [], pictures.plot_explanation

    def plot_two(explanation, path, *rest):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path.stem)
        plot(explanation, path, *rest)

    monkeypatch.setattr(pictures, "plot_explanation", plot_two)
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 130
    monkeypatch.setattr(
        pictures, "plot_explanation", lambda *a: saved.append(a[1].stem) or plot(*a)
    )
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 0
    assert sorted(saved) == ["a.jpg", "a.png", "below__b", "large"]
    assert len(list((tmp_path / "out").iterdir())) == 9


def test_existing_files_are_not_overwritten(small_run, folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for verb in ("predict", "explain"):
        words = [f"--checkpoint={small_run}", f"--images={folder}"]
        assert main([verb, *words, f"--out={tmp_path}"]) == 2
        assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_unsupported_formats_are_rows_with_an_error(small_run, folder, tmp_path):
    for ending in ("bmp", "gif", "webp"):
        Image.open(folder / "a.png").save(tmp_path / f"a.{ending}")
    found = inputs.find(tmp_path)
    assert [one.name for one in found] == ["a.bmp", "a.gif", "a.webp"]
    words = [f"--checkpoint={small_run}", f"--images={tmp_path}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 1
    rows = table(tmp_path / "out" / "predictions.csv")
    assert all("PNG, JPEG and TIFF are read" in row["error"] for row in rows)


def test_the_output_folder_is_excluded(folder, tmp_path):
    Image.open(folder / "a.png").save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    Image.open(folder / "a.png").save(tmp_path / "out" / "b.png")
    found = inputs.find(tmp_path, exclude=tmp_path / "out")
    assert [one.name for one in found] == ["a.png"]


def test_all_errors_of_a_table_are_reported(tmp_path):
    (tmp_path / "a.csv").write_text("image,patient\na.png,P\n,P\na.png,Q\n")
    with pytest.raises(ValueError, match=r"(?s)row 3: no image.*row 4: .*twice"):
        inputs.find(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "size"),
    [("$x_{$.png", (64, 64)), ("脳" * 30 + ".png", (700, 40)), ("n" * 200, (40, 700))],
)
def test_plots_of_unusual_names_and_shapes(tmp_path, name, size):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    visualization.plot_explanation(
        tmp_path / "a.png",
        pixels=pixels,
        A=np.zeros((height, width)),
        keep=np.zeros((height // 8, width // 8), bool),
        patch=8,
        title=f"{name}\npredicted IV, p = 0.50 ± 0.10 over folds",
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 100


def test_the_title_has_the_prediction_and_the_target(
    small_run, folder, tmp_path, monkeypatch
):
    titles = []
    monkeypatch.setattr(
        visualization,
        "plot_explanation",
        lambda path, *, title, **_: titles.append(title),
    )
    model = fof_jax.load(small_run)
    grades = model.predict([folder / "a.png"])
    best = int(grades.prob[0].argmax())
    for target in (best, (best + 1) % 3):
        result = model.explain(folder / "a.png", model.classes[target])
        pictures.plot_explanation(result, tmp_path / "a.png", model, "a.png")
    described = [
        f"{model.classes[k]}, p = {grades.prob[0, k]:.2f} ± {grades.spread[0, k]:.2f}"
        " over folds"
        for k in (best, (best + 1) % 3)
    ]
    assert titles == [
        f"a.png\npredicted {described[0]}",
        f"a.png\npredicted {described[0]}; A is for {described[1]}",
    ]
