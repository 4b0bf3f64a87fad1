"""The verb `compare`: plan, cells in processes of their own, failures, tables."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli import compare_cells, compare_rows
from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.data import prepare
from fof_jax.evaluation.predictions import Predictions, write_predictions
from fof_jax.training import cells
from fof_jax.training import workdir as run_folder

ROOT = Path(__file__).parents[2]
FILE = f"--config={ROOT}/configs/comparison.py"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words of a comparison on 18 regions of the phantom."""
    return [
        f"--config.data.dir={tmp_path_factory.mktemp('data')}",
        "--config.data.regions=18",
        "--config.folds=2",
        "--config.epochs=1",
        "--config.batch_size=4",
        "--config.encoder=mu/16",
        "--config.cpu_devices=1",
    ]


def finish(words, root, row, seed=42, skill=1.0):
    """Writes both cells of a row as if they had been trained."""
    plan = compare_rows.make_plan([FILE, *words], sys.stdout)
    own = next(one for one in plan.rows if one.name == row)
    folder = cells.Folder(root)
    config = config_flag.load(compare_rows.cell_words(own, plan, folder, seed))
    home = folder.workdir(row, seed)
    run_folder.create(config, plan.store, plan.folds, home, print)
    rng = np.random.default_rng(len(row))
    for fold, (_, test) in enumerate(plan.folds.folds):
        y = plan.store.grades[test]
        score = rng.normal(size=(len(y), 3))
        score[np.arange(len(y)), y] += skill
        table = Predictions(
            patient=tuple(plan.store.patients[i] for i in test),
            image=tuple(plan.store.images[i] for i in test),
            fold=np.full(len(y), fold),
            y=y.astype(int),
            prob=np.exp(score) / np.exp(score).sum(axis=1, keepdims=True),
            error=("",) * len(y),
        )
        path = folder.predictions(cells.Cell(seed, fold, row))
        path.parent.mkdir(parents=True)
        write_predictions(path, table)


def test_rows_that_are_encoders_keep_theirs(words):
    rate = "--config.optimizer.learning_rate=0.002"
    plan = compare_rows.make_plan([FILE, *words, rate], sys.stdout)
    rates = {r.name: r.config.optimizer.learning_rate for r in plan.rows if r.config}
    assert rates.pop("image.vgg19bn") == 5e-4  # published
    assert set(rates.values()) == {0.002}
    encoders = {row.name: row.config.encoder for row in plan.rows if row.config}
    assert encoders.pop("image.resnet18") == "resnet18"
    assert encoders.pop("image.vgg19bn") == "vgg19bn_unfrozen"
    assert encoders.pop("image.swinv2") == "swinv2_tiny/4"
    assert "fof" in encoders
    assert set(encoders.values()) == {"mu/16"}


def test_rows_take_the_other_form_where_they_have_one(words, capsys):
    plan = compare_rows.make_plan([f"{FILE}:phantom,as_published", *words], sys.stdout)
    made = {row.name: row.config for row in plan.rows if row.config}
    assert made["distill.kl"].optimizer.name == "adam_l2"
    assert made["fof"].optimizer.name == "adamw"
    assert made["distill.kl"].epochs == 1  # --config.FIELD is of all rows
    flags = ["compare", f"{FILE}:phantom,other", *words, "--workdir=unused"]
    assert main(flags) == 2
    assert "expected one of common, as_published, or none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--runs", "a", "b", "--rows=fof"], "--runs compares finished runs"),
        (["--runs", "a", "b", "--seeds=1"], "--runs compares finished runs"),
        (["--workdir=x", FILE, "--config.fold=1"], "pass --folds instead"),
        (["--workdir=x", FILE, "--rows="], "--rows: expected names with commas"),
        (["--workdir=x", FILE, "--folds=1;2"], "'1;2' is not numbers with commas"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(more, message, capsys):
    assert main(["compare", *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_trains_nothing(words, tmp_path, capsys):
    flags = ["compare", FILE, *words, f"--workdir={tmp_path}/x", "--rows=fof,omics"]
    assert main([*flags, "--seeds=1,2,1", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "fof: 4 of 4 not finished" in out
    assert "8 of 8 cells to train; time left in one process: unknown" in out
    assert not (tmp_path / "x").exists()
    assert main([*flags, "--rows=fof,nothing"]) == 2
    assert (
        "--rows names nothing; expected some of fof, wo_frl" in capsys.readouterr().err
    )
    assert main([*flags, "--folds=2"]) == 2
    assert "the data have folds 0-1" in capsys.readouterr().err


def test_finished_cells_are_tables_and_other_configurations_are_not(
    words, tmp_path, capsys, monkeypatch
):
    root = tmp_path / "x"
    measured = set()
    monkeypatch.setattr(
        compare_cells.Job, "measure_cost", lambda _, name, stop: measured.add(name)
    )
    for row, skill in (("fof", 2.0), ("vit", 0.0), ("distill.sp", 1.0)):
        finish(words, root, row, skill=skill)
    flags = ["compare", FILE, *words, f"--workdir={root}", "--rows=fof,vit,distill.sp"]
    assert main([*flags, "--replicates=50"]) == 0
    out = capsys.readouterr().out
    assert "0 of 6 cells to train" in out
    assert measured == {"fof", "vit", "distill.sp"}  # of rows that have no cost yet
    assert "6 of 6 cells trained by code that is not recorded here" in out
    document = json.loads((root / "comparison.json").read_text())
    finished = [row["row"] for row in document["rows"] if row["cells"]]
    assert finished == ["vit", "distill.sp", "fof", "fof"]
    before = (root / "comparison.txt").read_bytes()
    assert main([*flags, "--replicates=50"]) == 0
    assert (root / "comparison.txt").read_bytes() == before
    # Predictions of another budget are not mixed in: the row says why it has none.
    assert main([*flags, "--config.epochs=2", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "0 of 0 cells to train" in out
    assert re.search(r"fof, seed 42: not trained. (?s:.*)epochs: 1 there, 2 now", out)
    assert main([*flags, "--config.epochs=2", "--replicates=50"]) == 0
    text = capsys.readouterr().out
    assert "another configuration: epochs: 1 there, 2 now" in text
    assert not [
        row
        for row in json.loads((root / "comparison.json").read_text())["rows"]
        if row["cells"]
    ]


def test_rows_whose_inputs_a_cohort_lacks_are_named_and_left_out(
    small_cohort_words, tmp_path, capsys
):
    flags = ["compare", f"{FILE}:cohort", *small_cohort_words]
    assert main([*flags, f"--workdir={tmp_path}/x", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "fof: 2 of 2 not finished" in out
    assert re.search(r"distill.sp: left out. method .* reads omics, and the table", out)
    assert "release: left out. data.float_markers is" in out


def test_rows_that_a_missing_store_stops_are_named_with_one_reason(tmp_path, capsys):
    flags = ["compare", f"{FILE}:cohort", f"--config.data.dir={tmp_path}"]
    assert main([*flags, f"--workdir={tmp_path}/x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("compare: no row can be trained on this data:")
    assert len(lines) == 2
    assert lines[1].startswith("  fof, wo_frl, wo_mca, vit, ")
    assert "data build --config=…, with the same --config arguments" in lines[1]
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def small_cohort_words(words, tmp_path_factory):
    """A cohort of the phantom's regions with biomarkers and without omics."""
    config = config_flag.load([f"--config={ROOT}/configs/phantom.py", *words])
    folder = tmp_path_factory.mktemp("cohort")
    config.data.dir = str(folder / "phantom")
    store = prepare.prepare(config)
    lines = ["image,patient,grade,idh"]
    for i in range(len(store)):
        path = folder / f"{i}.png"
        Image.fromarray(store.native(i)).save(path)
        grade = store.classes[int(store.grades[i])]
        idh = int(store.patients[i][-1]) % 2
        lines.append(f"{path.name},{store.patients[i]},{grade},{idh}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    made = [
        f"--config.data.table={folder}/table.csv",
        f"--config.data.dir={folder}/data",
        "--config.data.biomarkers=('idh',)",
        "--config.data.image_size=64",
        "--config.folds=2",
        "--config.encoder=mu/16",
    ]
    assert main(["data", "build", f"{FILE}:cohort", *made]) == 0
    return made


@pytest.mark.slow  # five processes that train, and two that measure: 2 min
def test_cells_are_trained_alike_and_a_failing_one_is_a_reason(words, tmp_path, capsys):
    root = tmp_path / "x"
    flags = ["compare", FILE, *words, f"--workdir={root}", "--replicates=50"]
    flags.append("--rows=vit,omics,distill.hkd")
    # HKD refuses a batch of 4; the others go on.
    assert main([*flags, "--folds=0"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"HKD: seed 42, fold 0: error: .*batch", out)
    rows = {
        row["row"]: row
        for row in json.loads((root / "comparison.json").read_text())["rows"]
    }
    assert [cell["fold"] for cell in rows["vit"]["cells"]] == [0]
    cost = json.loads((root / "cost.json").read_text())
    assert cost["omics"]["needs_at_test"] == ["omics"]
    assert cost["vit"]["test_parameters"] == cost["vit"]["parameters"]
    # A second seed has the same test regions; what was lost is trained again.
    shutil.rmtree(root / "cells/vit/seed_42/fold_0")
    assert main([*flags, "--rows=vit", "--folds=0", "--seeds=42,43"]) == 0
    splits = [
        json.loads((root / f"cells/vit/seed_{seed}/splits.json").read_text())["folds"]
        for seed in (42, 43)
    ]
    assert splits[0] == splits[1]
