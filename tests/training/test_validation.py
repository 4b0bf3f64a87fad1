"""Validation in training: what selects a fold's model, and what takes no part in it.

The reference of a run that was interrupted is the same run left alone; that of the
selection is metrics.jsonl, read here line by line.
"""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data import store
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import model_card
from fof_jax.report import tables, training_plots
from fof_jax.report.run import read_run
from fof_jax.training import (
    cell_graphs,
    evaluator,
    omics,
    selection,
    train,
    weights,
)
from fof_jax.training.run_fields import VALIDATION_FIELDS
from tests.support.at_step import when_step
from tests.support.event_files import values_of
from tests.support.small_runs import launch

WORDS = (
    "--config.validation=0.2",
    "--config.validation_metric=accuracy",
    "--config.epochs=4",
    "--config.early_stopping=1",
    "--config.fold=0",
)
FILES = ("metrics.jsonl", "best.json", "validation.csv", "predictions.csv", "focus.csv")


@pytest.fixture(scope="module")
def validated(data, tmp_path_factory):
    """A run of one fold with validation, and the rows that its parts were given.

    `predicted` are those that it predicted, in order; `measured` those of the
    statistics of omics and graphs; `fold` is the folder, `described` the fold.
    """
    run = tmp_path_factory.mktemp("validated") / "run"
    rows, predict = [], evaluator.predict
    measured, described = [], []
    patched = pytest.MonkeyPatch()
    for module in (omics, cell_graphs):
        constants = module.fold_constants
        patched.setattr(
            module,
            "fold_constants",
            lambda *a, constants=constants: measured.append(a[-1]) or constants(*a),
        )
    batches = train.train_batches
    patched.setattr(
        train,
        "train_batches",
        lambda fold, **k: described.append(fold) or batches(fold, **k),
    )
    patched.setattr(
        evaluator, "predict", lambda fold, *a: rows.append(a[0]) or predict(fold, *a)
    )
    assert launch(data, run, *WORDS, "--config.eval_every=0") == 0
    patched.undo()
    return SimpleNamespace(
        run=run,
        fold=run / "fold_0",
        predicted=rows,
        measured=measured,
        described=described[0],
    )


def lines_of(fold):
    text = (fold / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def images_of(run, name):
    return json.loads((run / "splits.json").read_text())["folds"][0][name]["images"]


def test_the_best_epoch_is_the_model_and_ends_the_training(validated):
    logged = [line for line in lines_of(validated.fold) if "validation_loss" in line]
    values = {line["step"]: line["validation_accuracy"] for line in logged}
    best = json.loads((validated.fold / "best.json").read_text())
    first_of_best = min(s for s, v in values.items() if v == max(values.values()))
    assert best["step"] == first_of_best
    assert best["value"] == max(values.values())
    epoch = min(values)
    assert list(values) == list(range(epoch, max(values) + 1, epoch))
    stopped = min(best["step"] + epoch, 4 * epoch)
    assert best["trained_steps"] == max(values) == stopped
    assert best["stopped_early"] == (stopped < 4 * epoch)
    # The weights that prediction loads are those of that step, which was kept.
    steps = validated.fold / "checkpoints"
    at_best = weights.digest(weights.read(steps / str(best["step"])))
    assert weights.digest(weights.read(validated.fold)) == at_best
    assert weights.digest(weights.read(steps / str(stopped))) != at_best


def test_trackers_receive_the_result_at_the_last_step(validated):
    """W&B drops values of an earlier step than those before; here best < last."""
    best = json.loads((validated.fold / "best.json").read_text())
    assert best["step"] < best["trained_steps"]
    values = values_of(validated.fold / "tensorboard")
    at = {value.tag: step for step, value in values}
    assert at["result/accuracy"] == best["trained_steps"]
    steps = [step for step, value in values if not value.tag.startswith("_hparams_")]
    assert steps == sorted(steps)


def test_weights_are_those_of_the_best_step_from_any_folder(validated, monkeypatch):
    expected = weights.digest(weights.read(validated.fold))
    for folder in (validated.fold, validated.fold / "checkpoints"):
        monkeypatch.chdir(folder)
        assert weights.digest(weights.read(Path("."))) == expected


def test_the_model_card_names_the_selected_epoch(validated):
    card = model_card.of_model(fof_jax.load(validated.fold))
    best = json.loads((validated.fold / "best.json").read_text())
    assert f"- fold_0: model of epoch {best['epoch']:g}, best validation" in card


def test_metrics_are_those_of_the_written_predictions(validated):
    table = read_predictions(validated.fold / "validation.csv")
    assert sorted(table.image) == sorted(images_of(validated.run, "validation"))
    best = json.loads((validated.fold / "best.json").read_text())
    (line,) = (
        line
        for line in lines_of(validated.fold)
        if line["step"] == best["step"] and "validation_loss" in line
    )
    losses = [-np.log(p[y]) for p, y in zip(table.prob, table.y, strict=True)]
    assert line["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert line["validation_accuracy"] == np.mean(table.pred == table.y)


def test_test_rows_are_predicted_once_after_all_else(validated, data):
    opened = store.open_store(data, "phantom")
    named = [[opened.images[i] for i in rows] for rows in validated.predicted]
    sides = [images_of(validated.run, name) for name in ("validation", "test")]
    assert named[-1] == sides[1]
    assert all(images == sides[0] for images in named[:-1])


def test_what_is_measured_on_training_images_leaves_validation_out(validated):
    document = json.loads((validated.fold / "model.json").read_text())
    images = images_of(validated.run, "train")
    assert len(document["training"]["images"]) == len(images)
    opened = validated.described.cache.store
    assert len(validated.measured) == 2  # of omics, of graphs
    for rows in validated.measured:
        assert [opened.images[i] for i in rows] == images


def test_class_weights_are_of_the_remaining_rows(validated):
    """w_k = n / (K' n_k), counted here; tolerance 1e-6 of float32."""
    fold = validated.described
    config = fold.config.copy_and_resolve_references()
    config.data.class_weights = True
    batch = next(train.train_batches(dataclasses.replace(fold, config=config)))
    opened = fold.cache.store
    names = set(images_of(validated.run, "train"))
    grades = [
        int(g)
        for g, name in zip(opened.grades, opened.images, strict=True)
        if name in names
    ]
    expected = [
        len(grades) / (len(set(grades)) * grades.count(int(g))) for g in batch.grade
    ]
    np.testing.assert_allclose(batch.weight, expected, rtol=1e-6)


def test_the_report_has_curves_counts_and_the_epoch(validated, tmp_path, without_plots):
    run = read_run(validated.run)
    titles = [plot.title for plot in training_plots.curves(run, tmp_path)]
    assert "Cross-entropy, validation" in titles
    assert tables.per_fold(run).rows[0][1].startswith("finished, model of epoch")
    counts = tables.counts(run)
    assert counts.header[1:4] == ("training", "validation", "testing")
    assert counts.rows[0][2].startswith(f"{len(images_of(run.workdir, 'validation'))} ")


def test_a_run_that_was_stopped_twice_ends_with_the_same_bytes(
    validated, data, tmp_path, monkeypatch
):
    def ask():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # the thread that watches has read it

    words = [*WORDS, "--config.eval_every=0"]
    with monkeypatch.context() as patched:
        when_step(2, ask, patched)
        assert launch(data, tmp_path, *words) == 143
    with monkeypatch.context() as patched:  # in a validation, after its checkpoint
        measure = selection.measure

        def cut(table):
            ask()
            return measure(table)

        patched.setattr(selection, "measure", cut)
        assert launch(data, tmp_path, *words) == 143
    assert launch(data, tmp_path, *words) == 0
    for name in FILES:
        one, other = (run / "fold_0" / name for run in (validated.run, tmp_path))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_kill_between_the_last_validation_and_the_test(validated, data, tmp_path):
    run = shutil.copytree(validated.run, tmp_path / "run")
    for name in ("best.json", "validation.csv", "predictions.csv", "focus.csv"):
        (run / "fold_0" / name).unlink()
    log = run / "fold_0/metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert "validation_loss" in lines[-1]
    log.write_text("".join(lines[:-1]))
    assert launch(data, run, *WORDS, "--config.eval_every=0") == 0
    for name in FILES:
        one, other = (r / "fold_0" / name for r in (validated.run, run))
        assert one.read_bytes() == other.read_bytes(), name


def test_rules_of_abstention_are_chosen_on_validation_rows(validated, tmp_path, capsys):
    path, out = validated.fold / "predictions.csv", tmp_path / "eval.json"
    words = ["--abstain_error=0.3", f"--out={out}"]
    assert main(["eval", f"--predictions={path}", *words]) == 0
    told = capsys.readouterr().out
    assert "chosen on the validation rows" in told
    assert "The same on the given rows" in told
    document = json.loads(out.read_text())
    rule, tested = document["abstention"][0], document["abstention_test"][0]
    assert rule["chosen_on"] == "validation"
    table = read_predictions(validated.fold / "validation.csv")
    ordered = np.sort(table.prob, axis=1)
    answered = ordered[:, -1] - ordered[:, -2] >= rule["margin"]
    assert rule["answered"] == answered.sum()
    if answered.any():
        assert np.mean((table.pred != table.y)[answered]) <= 0.3
    table = read_predictions(path)
    ordered = np.sort(table.prob, axis=1)
    assert tested["rows"] == len(table)
    answered = ordered[:, -1] - ordered[:, -2] >= rule["margin"]
    assert tested["answered"] == answered.sum()


def test_a_run_of_an_earlier_version_counts_as_without(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "config.json"
    document = json.loads(path.read_text())
    for name in VALIDATION_FIELDS:
        del document["config"][name], document["fields"][name]
    path.write_text(json.dumps(document))
    assert launch(data, run) == 0
    assert launch(data, run, "--config.validation=0.2") == 2
