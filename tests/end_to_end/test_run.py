"""A whole run through `main(argv)`: folds, files, resume, refusals, reproducibility."""

import csv
import json
import shutil

import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.training import checkpoint
from fof_jax.training.build import flatten_fields
from tests.support.small_runs import FILES, RESUMABLE, launch


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def params(workdir, fold):
    steps = [p for p in (workdir / f"fold_{fold}/checkpoints").iterdir()]
    newest = max(int(p.name) for p in steps if p.name.isdigit())
    return (workdir / f"fold_{fold}/checkpoints/{newest}").resolve()


def test_every_region_is_tested_once(finished):
    tested = [r for k in range(2) for r in rows(finished / f"fold_{k}/predictions.csv")]
    assert len({r["image"] for r in tested}) == len(tested) == 24
    for row in tested:
        p = [float(row[f"p_{k}"]) for k in range(3)]
        assert sum(p) == pytest.approx(1, abs=1e-6)
        assert int(row["pred"]) == int(np.argmax(p))


def test_results_and_config_are_on_disk(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["scheme"] == "patient"
    assert results["finished"] == "2 of 2 folds"
    assert 0 <= results["units"]["region"]["micro"]["mean"]["accuracy"] <= 1
    made = json.loads((finished / "config.json").read_text())["made_with"]
    assert made["packages"]["jax"].startswith("0.")
    assert {p.name for p in (finished / "fold_0").iterdir()} == {
        "checkpoints",
        "focus.csv",
        "metrics.jsonl",
        "model.json",
        "predictions.csv",
        "tensorboard",
    }


def test_metrics_are_logged_each_step(finished):
    path = finished / "fold_0/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines if "test_accuracy" in line] == [3, 6]
    lines = [line for line in lines if "total" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert {"total", "cls", "frl", "mca", "kept", "grad_norm", "learning_rate"} <= set(
        lines[0]
    )
    # One epoch of warm-up from 0, then down to (almost) 0.
    assert lines[0]["learning_rate"] == 0
    assert lines[-1]["learning_rate"] < lines[len(lines) // 2]["learning_rate"]


def test_the_same_seed_gives_the_same_numbers(finished, data, tmp_path):
    assert launch(data, tmp_path, "--config.fold=0") == 0
    for name in ("fold_0/metrics.jsonl", "fold_0/predictions.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_goes_on_from_its_newest_checkpoint(finished, data, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    fold = tmp_path / "run/fold_1"
    newest = params(tmp_path / "run", 1)
    shutil.rmtree(newest)  # as if it had been killed before the last save
    (fold / "predictions.csv").unlink()
    assert launch(data, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "fold 0: already finished" in out
    assert "fold 1: resumes from step 4 of 6" in out
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_flipped_bit_in_a_checkpoint_is_noticed(finished, data, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    newest = params(tmp_path / "run", 1)
    victim = max(
        (p for p in newest.rglob("*") if p.is_file() and p.name != "manifest.json"),
        key=lambda p: p.stat().st_size,
    )
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    (tmp_path / "run/fold_1/predictions.csv").unlink()
    assert launch(data, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "is damaged or missing; step 4, the one before it, is used" in out
    assert "resumes from step 4" in out
    got = (tmp_path / "run/results.json").read_bytes()
    assert got == (finished / "results.json").read_bytes()


def test_another_configuration_is_refused_by_name(finished, data, capsys):
    assert launch(data, finished, "--config.tau=0.1") == 2
    err = capsys.readouterr().err
    assert "tau: 0.07 there, 0.1 now" in err
    assert "Traceback" not in err


def test_fields_that_do_not_alter_numbers_may_change(finished, data, capsys):
    more = ("--config.data.threads=1", "--config.save_every=50")
    assert launch(data, finished, *more) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_fold_that_does_not_exist(finished, data, capsys):
    assert launch(data, finished, "--config.fold=7") == 2
    assert "Fold 7 does not exist" in capsys.readouterr().err


@pytest.mark.slow  # its step and the flow of a run are tested each
def test_the_baseline_runs_by_the_same_command(data, tmp_path, capsys):
    words = [w.replace("phantom.py", "phantom.py:baseline") for w in RESUMABLE]
    words += [f"--config.data.dir={data}", f"--workdir={tmp_path}", "--config.fold=0"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "everything is drawn at random (from scratch)" in out
    assert "1 of 2 folds finished" in out


@pytest.mark.slow
def test_class_weights_change_the_loss(finished, data, tmp_path):
    # 24 regions of 3 classes in 2 folds: some class is rarer in a training fold.
    replaced = ("regions", "folds=", "eval_every")
    words = [w for w in RESUMABLE if not any(part in w for part in replaced)]
    words += ["--config.data.regions=25", "--config.folds=3", "--config.fold=0"]
    words += [f"--config.data.dir={data}", "--config.epochs=1"]
    lines = []
    for on in ("False", "True"):
        workdir = tmp_path / on
        more = [f"--workdir={workdir}", f"--config.data.class_weights={on}"]
        assert main([*words, *more]) == 0
        path = workdir / "fold_0/metrics.jsonl"
        lines.append([json.loads(x)["cls_glb"] for x in path.read_text().splitlines()])
    assert lines[0] != lines[1]


@pytest.mark.slow  # one more run
def test_a_run_begins_with_given_weights(finished, data, tmp_path, capsys):
    given = f"--config.init.checkpoint={finished}/fold_0"
    more = ("--config.fold=0", "--config.epochs=1", given)
    assert launch(data, tmp_path, *more, "--config.optimizer.warmup_epochs=0") == 0
    out = capsys.readouterr().out
    for part in ("classifier loaded: bias, kernel", "encoder loaded: blocks.mlp_in"):
        assert f"init.checkpoint: {part}" in out
    first, from_scratch = (  # the first batch, before any update
        json.loads((run / "fold_0/metrics.jsonl").read_text().split("\n")[0])
        for run in (tmp_path, finished)
    )
    assert first["total"] != from_scratch["total"]


def test_weights_of_another_size_are_refused_with_both_shapes(
    finished, data, tmp_path, capsys
):
    given = f"--config.init.checkpoint={finished}/fold_0"
    assert launch(data, tmp_path, given, "--config.encoder=mu/8") == 2
    err = capsys.readouterr().err
    assert "(768, 64) there and (192, 64) in the model" in err


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, capsys):
    # A learning rate of 1e30 throws the parameters away in the second step.
    more = ("--config.optimizer.learning_rate=1e30", "--config.fold=0")
    assert launch(data, tmp_path, *more) == 3
    err = capsys.readouterr().err
    assert "not finite" in err
    assert "Images of the batch:" in err
    kept = checkpoint.Checkpoints(tmp_path / "fold_0/checkpoints")
    steps = [p for p in kept.directory.iterdir() if p.name.isdigit()]
    kept.close()
    assert all(int(p.name) <= 2 for p in steps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.batch_size=500"], "batch_size: 500 is more than"),
        (["--config.devices=3"], "this machine has 2"),
        (["--config.batch_size=3", "--config.devices=2"], "3 does not divide by 2"),
        (["--config.data.image_size=60"], "60 x 60 pixels do not divide"),
        (["--config.encoder=Tiny"], "'Tiny' is not a variant"),
        (["--config.method=fofo"], "'fofo' does not exist"),
        (["--config.compute_dtype=half"], "'half' is not known"),
        (["--config.cam.block=-9"], "cam.block: got -9"),
        (["--config.attention=fast"], "unknown implementation 'fast'"),
        (["--config.folds=50"], "folds"),
        (["--config.log_every=0"], "log_every: got 0, expected 1 or more"),
        (["--config.eval_batch_size=0"], "eval_batch_size: got 0"),
        (["--config.data.cache=disk"], "cache"),
    ],
)
def test_bad_values_leave_one_message(data, tmp_path, capsys, words, message):
    assert launch(data, tmp_path / "run", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()  # the corrected command may use it


def test_flat_names():
    assert flatten_fields({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b_c_d": 2}
