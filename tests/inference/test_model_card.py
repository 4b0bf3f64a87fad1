"""Model cards: metrics and metadata from the run's files, missing ones reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fof_jax.cli import config
from fof_jax.evaluation.metrics import summarize
from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.inference import model as inference_model
from fof_jax.inference import model_card
from fof_jax.training import build
from fof_jax.types import Variables


def settings(*words):
    return config.load(["--config=phantom", "--config.encoder=mu/16", *words])


def model(settings, *folds):
    method = build.method_of(settings)
    return inference_model.TrainedModel(
        method, {str(f): Variables({}, {}) for f in folds}, settings, (64, 64)
    )


@pytest.fixture
def run(tmp_path):
    """Files of a run with known metrics."""
    prob = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]] * 2)
    y = np.array([0, 1, 2, 0, 1, 1])  # five of six right
    table = Predictions(
        patient=tuple("abcdef"),
        image=tuple("abcdef"),
        fold=np.zeros(6, np.int64),
        y=y,
        prob=prob,
        error=("",) * 6,
    )
    assert UNKNOWN not in y
    made = {
        "packages": {"jax": "9.8.7"},
        "python": "3.11.0",
        "commit": "0123abc",
        "uncommitted_changes": True,
        "device": "a device",
        "platform": "cpu",
    }
    side = {"regions": 6, "patients": 5}
    folds = [{"fold": 0, "train": {"regions": 12, "patients": 9}, "test": side}]
    results = summarize(table) | {"finished": "1 of 2 folds"}
    for name, value in (
        ("config", {"made_with": made}),
        ("results", results),
        ("splits", {"folds": folds}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "fold_0/checkpoints/7").mkdir(parents=True)
    return tmp_path


def test_the_card_contains_the_facts_of_the_run(run):
    text = model_card.of_model(model(settings(), run / "fold_0"))
    for words in (
        "**Research use only; not for diagnosis.**",
        "| region | 6 | micro |",
        "| 83.33 |",  # accuracy: five of six
        "- Fold 0: train 12 regions of 9 patients, test 6 regions of 5 patients",
        "- Commit of training: 0123abc with uncommitted changes",
        "python 3.11.0, jax 9.8.7",
        "1 of 2 folds finished",
        "Split unit: patient split",
        "- Random initialization.",
        "metrics on it say nothing about patients",
        "this model is fold_0 only",
    ):
        assert words in text
    # A step below a fold has the card of the fold.
    step = model(settings(), run / "fold_0/checkpoints/7")
    assert model_card.of_model(step) == text


def test_patients_on_both_sides_of_the_split_are_reported(run):
    assert "in both training and test" in model_card.of_model(
        model(settings("--config.data.scheme=roi"), run)
    )


def test_initial_weights_are_listed_with_their_licence(run):
    start = run / "start"
    start.mkdir()
    with_weights = settings(f"--config.init.checkpoint={start}")
    assert "licence: unknown" in model_card.of_model(
        model(with_weights, run / "fold_0")
    )
    about = {"file": "vit.safetensors", "sha256": "abc", "licence": "Apache-2.0"}
    (start / "about.json").write_text(json.dumps(about))
    text = model_card.of_model(model(with_weights, run / "fold_0"))
    for words in ("file: vit.safetensors", "sha256: abc", "licence: Apache-2.0"):
        assert words in text
    assert "unknown" not in text
    imported = model_card.of_folder(start)
    assert "licence: Apache-2.0" in imported
    assert model_card.USE in imported


def test_a_copied_fold_reports_what_is_unknown(run):
    alone = run / "elsewhere/a/b/c/d/fold_0"
    shutil.copytree(run / "fold_0", alone)
    text = model_card.of_model(model(settings(), alone))
    assert "Unknown: results.json is missing." in text
    assert "Versions of training: unknown" in text
    bare = model_card.of_folder(Path(alone))
    assert "Unknown: there is no run." in bare
