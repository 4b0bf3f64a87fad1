"""The command focus on a small run and on a table with masks."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_score

from fof_jax.cli.main import main
from fof_jax.evaluation import focus_table
from fof_jax.inference import focus_alignment, focus_cases, load
from fof_jax.inference.table_form import TableForm


def summary(folder):
    with (folder / "summary.csv").open(newline="") as file:
        return {(r["grade"], r["explainer"]): r for r in csv.DictReader(file)}


@pytest.fixture(scope="module")
def table(small_pictures, tmp_path_factory):
    """Three images of a cohort of another hospital, one of them larger, with masks."""
    folder = tmp_path_factory.mktemp("table")
    lines = ["image,patient,grade,mask"]
    for i, (name, pixels) in enumerate(list(small_pictures.items())[:3]):
        image = Image.fromarray(pixels)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[16:32, 32:48] = 255
        painted = Image.fromarray(mask)
        if i == 2:
            image, painted = image.resize((128, 96)), painted.resize((128, 96))
        image.save(folder / f"{i}.png")
        painted.save(folder / f"{i}_mask.png")
        grade = name and ["II", "III", "IV"][i]
        lines.append(f"{i}.png,new{i},{grade},{i}_mask.png")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.mark.slow
def test_focus_of_the_runs_own_test_images(small_run, small_data, tmp_path, capsys):
    words = ["focus", f"--checkpoint={small_run}/fold_0", f"--data_dir={small_data}"]
    words += ["--explainers=eq1,edges", f"--out={tmp_path}", "--limit=4"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Eq. (1), block 3" in text
    # A map that ignores the model fails the check of parameters.
    assert "randomized above 0.9): most edges" in text
    rows = focus_table.read(tmp_path / "scores.csv")
    assert len({row.image for row in rows}) * 2 == len(rows) == 8
    found = summary(tmp_path)
    assert float(found["all", "edges"]["randomized"]) == pytest.approx(1)
    assert float(found["all", "eq1"]["randomized"]) < 0.9
    assert found["all", "eq1"]["stability"] == ""
    with (tmp_path / "alignment.csv").open(newline="") as file:
        aligned = list(csv.DictReader(file))
    assert [r["biomarker"] for r in aligned][:2] == ["idh", "codeletion"]
    page = (tmp_path / "focus.html").read_text()
    grades = {row.grade for row in rows}
    assert page.count("<img") == 4 * len(grades)  # image, structures, two maps
    with Image.open(tmp_path / "focus.png") as picture:
        assert picture.size[0] > 400
    for row in rows:
        assert 0 <= row.figures["inside"] <= 1 or np.isnan(row.figures["inside"])


def test_focus_of_a_table_scores_every_fold(small_run, table, tmp_path, capsys):
    words = ["focus", f"--checkpoint={small_run}", f"--table={table}", "--no_curves"]
    assert main([*words, "--explainers=eq1,random", f"--out={tmp_path}"]) == 0
    rows = focus_table.read(tmp_path / "scores.csv")
    assert {row.fold for row in rows} == {"fold_0", "fold_1"}
    random = [row for row in rows if row.explainer == "random"]
    assert all(row.figures["stability"] == pytest.approx(1) for row in random)
    # 96 x 128 pixels are more than the training images' 64: tiles with structure.
    assert len({row.tile for row in rows if row.image == "2.png"}) >= 2
    assert np.isnan(rows[0].figures["deletion_mean"])
    assert "deletion" not in capsys.readouterr().out


def test_images_of_the_run_belong_to_the_folds_that_test_them(small_run, small_data):
    from fof_jax.data import store

    model = load.load(small_run)
    data = store.open_store(small_data, "phantom")
    cases = focus_cases.of_store(model, data)
    assert all(len(case.folds) == 1 for case in cases)
    assert {case.folds[0] for case in cases} == set(model.fold_names)
    one = focus_cases.of_store(load.load(small_run / "fold_0"), data)
    assert {c.image for c in one} == {c.image for c in cases if "fold_0" in c.folds[0]}


def test_alignment_reads_the_stores_pixels_as_they_are(small_run, small_data):
    """They are stain-normalized; the model's own normalization would be the second."""
    from fof_jax.data import store

    model = load.load(small_run / "fold_0")
    assert model.config.data.stain == "macenko"
    data = store.open_store(small_data, "phantom")
    assert data.options.stain is not None
    found = focus_alignment.of_store(model, data)
    unseen = focus_cases.unseen_folds(model)
    test = [i for i, n in enumerate(data.images) if unseen(n, data.patients[i])]
    tiles = np.stack([data.read(i, model.image_size) for i in test])
    v = model.fold_features(tiles)[:, 0]
    for k, one in enumerate(found):
        known = data.known[test][:, k]
        status = data.biomarker_values[test][known, k]
        assert one.images == known.sum()
        if one.silhouette_v is not None:
            want = silhouette_score(v[known], status, metric="cosine")
            assert one.silhouette_v == pytest.approx(want, abs=1e-6)
    assert any(one.silhouette_v is not None for one in found)


def test_a_checkpoint_without_splits_is_scored_with_a_warning(
    small_run, table, tmp_path, capsys
):
    fold = shutil.copytree(small_run / "fold_0", tmp_path / "fold_0")
    words = ["focus", f"--checkpoint={fold}", f"--table={table}", "--no_curves"]
    words += ["--explainers=random", f"--out={tmp_path / 'out'}"]
    assert main(words) == 0
    warning = "warning: focus: the checkpoint has no splits.json, so that images of its"
    assert warning in capsys.readouterr().err


def test_a_planted_mark_is_scored_on_a_table_with_the_runs_words(
    small_run, table, tmp_path, monkeypatch, capsys
):
    """The grade's column has the name that the run's own table gave it."""
    text = table.read_text().replace(
        "image,patient,grade", "image,patient,diagnosis", 1
    )
    own = table.with_name("own.csv")
    own.write_text(text)
    form = TableForm(columns={"grade": "diagnosis"})
    monkeypatch.setattr(TableForm, "of", classmethod(lambda cls, config: form))
    words = ["focus", "--mark=stamp", "--mark_class=IV", f"--table={own}"]
    words += [f"--checkpoint={small_run}/fold_0", f"--out={tmp_path / 'out'}"]
    words += [f"--control={small_run}/fold_0", "--explainers=eq1,edges"]
    assert main(words) == 0
    text = (tmp_path / "out/confounder.txt").read_text()
    planted, _, verdict = text.split("\n\n")
    # A pair of the same model, which has not learned the mark.
    assert planted.count("no cause") == 2
    assert "does not fall further than the control's" in verdict
    assert planted in capsys.readouterr().out
    rows = focus_table.read(tmp_path / "out/confounder_planted.csv")
    control = focus_table.read(tmp_path / "out/confounder_control.csv")
    assert {row.grade for row in rows} == {"IV"}
    assert [row.figures["inside"] for row in rows] == pytest.approx(
        [row.figures["inside"] for row in control], nan_ok=True
    )
    mean = 100 * np.mean([row.figures["area"] for row in rows])
    (line,) = [line for line in planted.splitlines() if line.startswith("most edges")]
    assert f"{mean:.1f}" in line.split()


def test_limit_takes_the_grades_in_turn():
    grades = [0] * 20 + [1] * 3 + [2] * 20
    chosen = [grades[i] for i in focus_cases.spread(grades, limit=9)]
    assert [chosen.count(g) for g in range(3)] == [3, 3, 3]
    assert focus_cases.spread(grades, limit=None) == list(range(43))
    with pytest.raises(ValueError, match="limit: got 0"):
        focus_cases.spread(grades, limit=0)


def test_errors_of_focus(small_run, table, tmp_path, capsys):
    words = ["focus", f"--checkpoint={small_run}", f"--out={tmp_path / 'new'}"]
    bare = tmp_path / "bare.csv"
    bare.write_text(f"image,patient,grade\n{table.parent}/0.png,a,II\n")
    for flags, message in (
        ([f"--table={bare}"], "no image of the table has a mask"),
        ([f"--table={table}", "--explainers=cam"], "'cam' does not exist"),
        ([f"--table={table}", "--limit=0"], "limit: got 0"),
    ):
        assert main([*words, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
