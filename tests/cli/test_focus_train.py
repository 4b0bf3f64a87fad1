"""`focus --train`: the marked model of a pair, from the config and data of a run."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.data import marks, store, store_export
from fof_jax.data.cohort import read_cohort
from fof_jax.data.metadata import from_cohort
from fof_jax.training.run_fields import OPTIONAL_FIELDS


def test_an_exported_store_is_the_one_that_it_was(small_data, tmp_path):
    """The table's hash, which covers every column, and the images' bytes."""
    data = store.open_store(small_data, "phantom")
    store_export.write_images(data, tmp_path / "images")
    again = read_cohort(
        tmp_path / "images/table.csv",
        classes=data.classes,
        biomarkers=data.biomarkers,
        float_markers=data.float_markers,
        omics=data.omic_names,
    )
    assert from_cohort(again).table_hash == data.table_hash
    for i, row in enumerate(again.rows):
        assert row.image.read_bytes() == data.encoded(i)


# The tests of a pair are slow ones: they train. Marks, export and scoring of a table
# are tested without.
@pytest.fixture(scope="module")
def pair(small_run, small_data, tmp_path_factory):
    """Words of the command, and its folder after it ran."""
    out = tmp_path_factory.mktemp("focus") / "pair"
    words = ["focus", "--mark=stamp", "--mark_class=IV", "--mark_fraction=0.8"]
    words += ["--train", f"--checkpoint={small_run}/fold_1", f"--out={out}"]
    words += [f"--data_dir={small_data}", "--explainers=eq1,edges"]
    assert main(words) == 0
    return words, out


@pytest.mark.slow
def test_the_marked_model_is_trained_like_its_control(pair, small_run, small_data):
    _, out = pair
    run = out / "run"
    assert (run / "splits.json").read_bytes() == (
        small_run / "splits.json"
    ).read_bytes()
    assert [one.name for one in run.glob("fold_*")] == ["fold_1"]
    before, after = (
        json.loads((one / "config.json").read_text())["fields"]
        for one in (small_run, run)
    )
    differ = {name for name in after if before.get(name) != after[name]}
    allowed = {"data_dir", "data_name", "data_table", "data_hash", "data_raw_dir"}
    assert {"data_name", "data_hash"} <= differ <= allowed | {"fold"}
    # The store it was trained on: 80% of one class carry the mark, nothing else.
    clean, marked = (
        store.open_store(folder, name)
        for folder, name in ((small_data, "phantom"), (out / "data", "marked"))
    )
    own = np.flatnonzero(clean.grades == clean.classes.index("IV"))
    changed = [i for i in range(len(clean)) if clean.encoded(i) != marked.encoded(i)]
    assert set(changed) <= set(own.tolist())
    assert len(changed) == round(0.8 * len(own))
    with Image.open(out / "marked" / clean.images[changed[0]]) as image:
        pixels = np.asarray(image)
    with Image.open(out / "clean" / clean.images[changed[0]]) as image:
        painted, mask = marks.add_mark(
            np.asarray(image.convert("RGB")), "stamp", clean.images[changed[0]]
        )
    np.testing.assert_array_equal(pixels, painted)
    np.testing.assert_array_equal(marked.read_mask(changed[0], len(mask)), mask)


@pytest.mark.slow
def test_both_models_are_scored(pair, small_run, capsys):
    """Accuracy without the mark is that of the run's own predictions."""
    words, out = pair
    text = (out / "confounder.txt").read_text()
    assert "planted" in text
    assert "control" in text
    assert text.count("most edges") == 2
    with (small_run / "fold_1/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = 100 * np.mean([row["y"] == row["pred"] for row in rows])
    control = text[text.index("control: ") :].splitlines()[0]
    assert f"{right:.1f}" in control
    # A second call finds everything done.
    finished = out / "run/fold_1/predictions.csv"
    before = finished.stat().st_mtime_ns
    assert main(words) == 0
    assert "fold 1: already finished" in capsys.readouterr().out
    assert finished.stat().st_mtime_ns == before
    assert (out / "confounder.txt").read_text() == text
    assert main([*words, "--mark_fraction=0.5"]) == 2
    error = capsys.readouterr().err
    assert "holds the pair of another command (fraction 0.8, now 0.5)" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint="], "requires --checkpoint=RUN"),
        (["--table=T.csv"], "Leave out --table and --control"),
        (["--mark_class=V"], "mark_class: got 'V', expected one of II, III, IV"),
        (["--mark_fraction=2"], "mark_fraction: got 2.0"),
        (["--explainers=cam"], "'cam' does not exist"),
    ],
)
def test_errors_come_before_anything_is_written(
    small_run, tmp_path, capsys, flags, message
):
    words = ["focus", "--mark=dot", "--mark_class=IV", "--train"]
    words += [f"--checkpoint={small_run}", f"--out={tmp_path / 'new'}", *flags]
    if flags == ["--checkpoint="]:
        words = [word for word in words if not word.startswith("--checkpoint")]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_of_before_validation_is_the_control_of_a_pair(
    small_run, small_data, tmp_path
):
    run = shutil.copytree(small_run, tmp_path / "run")
    for path in (run / "config.json", *run.glob("fold_*/model.json")):
        document = json.loads(path.read_text())
        for name in OPTIONAL_FIELDS:
            del document["config"][name]
            document.get("fields", {}).pop(name, None)
        path.write_text(json.dumps(document))
    words = ["focus", "--mark=dot", "--mark_class=IV", "--train"]
    words += [f"--checkpoint={run}/fold_1", f"--data_dir={small_data}"]
    words += ["--explainers=edges", f"--out={tmp_path}/pair"]
    assert main(words) == 0


def test_a_run_without_the_fields_of_this_version_is_named(small_run, tmp_path, capsys):
    run = shutil.copytree(small_run, tmp_path / "run")
    path = run / "fold_0/model.json"
    document = json.loads(path.read_text())
    del document["config"]["optimizer"]["warmup_epochs"]
    path.write_text(json.dumps(document))
    words = ["focus", "--mark=dot", "--mark_class=IV", "--train"]
    assert main([*words, f"--checkpoint={run}/fold_0"]) == 2
    assert "has no field warmup_epochs" in capsys.readouterr().err.replace("'", "")
    assert not (run / "fold_0/confounder").exists()
