"""Trackers and the terminal's text: what they receive, and that they change nothing.

References: event files read here record by record, stand-ins for W&B and MLflow that
write down their calls, and, where they are installed, these packages themselves,
offline.
"""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from fof_jax.configs import phantom
from fof_jax.training import option_ranges, tracking
from tests.support.at_step import when_step
from tests.support.event_files import values_of
from tests.support.small_runs import launch

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
WANDB = """
import json
from pathlib import Path
CALLS = Path({path!r})
def note(*words):
    with CALLS.open("a") as file:
        file.write(json.dumps(words) + "\\n")
def Image(pixels):
    return list(pixels.shape)
class Run:
    id = "abc"
    def log(self, values, step):
        if {broken} and step > 1:
            raise OSError("the network is gone\\nlong trace")
        note("log", values, step)
    def finish(self, exit_code):
        note("finish", exit_code)
def init(**words):
    note("init", words)
    return Run()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a module `wandb` in the place of the package; reads what it was told."""

    def make(broken=False):
        (tmp_path / "packages").mkdir(exist_ok=True)
        calls = tmp_path / "calls"
        text = WANDB.format(path=str(calls), broken=broken)
        (tmp_path / "packages/wandb.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    before = sys.modules.pop("wandb", None)
    yield make
    sys.modules.pop("wandb", None)
    if before is not None:
        sys.modules["wandb"] = before


def test_tensorboard_has_hyper_parameters_values_and_pictures(tmp_path):
    fields = {"seed": 42, "method": "fof", "frl": True, "fold": None, "classes": ["a"]}
    board = tracking.TensorBoard(tmp_path, purge_step=3, fields=fields)
    board.scalars({"train/total": 0.5}, 4)
    board.picture("map/a", PICTURE, 4)
    board.close(finished=True)
    values = values_of(tmp_path)
    tags = [value.tag for _, value in values]
    assert tags == [
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "train/total",
        "map/a",
        "_hparams_/session_end_info",
    ]
    step, scalar = values[2]
    assert (step, scalar.simple_value) == (4, 0.5)
    image = values[3][1].image
    assert (image.height, image.width) == (4, 4)
    start = values[1][1].metadata.plugin_data.content
    for name in (b"seed", b"method", b"fof", b"frl", b"classes"):
        assert name in start
    assert b"fold" not in start  # unset


def test_a_tracker_that_fails_is_given_up(tmp_path, stand_in):
    calls, said = stand_in(broken=True), []
    opened = tracking.open_trackers(
        ["wandb"],
        tmp_path / "run/fold_0",
        label="fold 0",
        first=0,
        fields={},
        log=said.append,
    )
    for step in (1, 2, 3):
        for one in opened:
            one.scalars({"train/total": 1.0}, step)
    for one in opened:
        one.close(finished=True)
    assert [call[0] for call in calls()] == ["init", "log"]
    assert said == [
        "warning: wandb is given up (the network is gone); training goes on"
    ]
    assert len(values_of(tmp_path / "run/fold_0/tensorboard")) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("clearml", "expected wandb, mlflow"), ("wandb", r"pip install -e '.\[wandb\]'")],
)
def test_trackers_that_cannot_be_used_are_refused(text, message, monkeypatch):
    monkeypatch.setattr(option_ranges.importlib.util, "find_spec", lambda name: None)
    config = phantom.get_config()
    config.trackers = text
    with pytest.raises(ValueError, match=message):
        option_ranges.check_ranges(config)
    config.trackers = ""
    option_ranges.check_ranges(config)


@pytest.mark.slow  # the trackers alone above, the interrupted run in test_survival.py
def test_a_run_is_tracked_goes_on_and_has_the_same_bytes(
    finished, data, tmp_path, monkeypatch, stand_in
):
    calls = stand_in()

    def ask():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # the thread that watches has read it

    words = ["--config.fold=0", "--config.trackers=wandb", "--config.log_pictures=2"]
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        when_step(2, ask, patched)
        assert launch(data, run, *words) == 143
    assert launch(data, run, *words) == 0
    told = calls()
    first, second = (call[1] for call in told if call[0] == "init")
    assert first["config"]["data_regions"] == 24
    assert first["name"] == "run fold 0"
    assert (first["id"], second["id"]) == (None, "abc")
    assert [call[1] for call in told if call[0] == "finish"] == [1, 0]
    names = {name for call in told if call[0] == "log" for name in call[1]}
    assert {"train/total", "test/accuracy", "result/auc", "result/accuracy"} <= names
    train = json.loads((run / "splits.json").read_text())["folds"][0]["train"]["images"]
    drawn = {
        name.partition("/")[2].partition("/")[2] for name in names if "map/" in name
    }
    assert len(drawn) == 2
    assert drawn <= set(train)
    shapes = [v for c in told if c[0] == "log" for n, v in c[1].items() if "map/" in n]
    assert set(map(tuple, shapes)) == {(64, 128, 3)}
    for name in ("metrics.jsonl", "predictions.csv", "focus.csv"):
        one, other = (r / "fold_0" / name for r in (finished, run))
        assert one.read_bytes() == other.read_bytes(), name
    text = (run / "terminal.txt").read_text()
    assert "fold 0: saved at step 3 of 6" in text
    assert "Stopped: stopped by SIGTERM" in text
    assert "fold 0: resumes from step 3 of 6" in text
    assert text.splitlines()[-1].endswith(f"results: {run / 'results.json'}")


def test_a_refused_run_leaves_no_text_in_a_folder_of_others(data, tmp_path):
    (tmp_path / "photos").mkdir()
    assert launch(data, tmp_path) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder, ids = tmp_path / "run/fold_0", {}
    folder.mkdir(parents=True)
    run = tracking.WeightsAndBiases(folder, label="fold 0", fields={"seed": 1}, ids=ids)
    run.scalars({"train/total": 0.5}, 1)
    run.picture("map/a", PICTURE, 1)
    run.close(finished=True)
    (kept,) = (folder / "wandb").glob(f"offline-run-*-{ids['wandb']}")
    assert list(kept.glob("*.wandb"))
    assert list(kept.rglob("*.png"))


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    fields = {f"field_{k}": k for k in range(150)}
    ids: dict[str, str] = {}
    for step, finished in ((1, False), (2, True)):  # the second goes on
        run = tracking.MLflow(
            tmp_path / "run/fold_0", label="fold 0", fields=fields, ids=ids
        )
        run.scalars({"train/total": 0.5 / step}, step)
        run.picture("map/a", PICTURE, step)
        run.close(finished=finished)
    client = mlflow.MlflowClient()
    kept = client.get_run(ids["mlflow"])
    assert kept.info.status == "FINISHED"
    assert len(kept.data.params) == 150
    history = client.get_metric_history(ids["mlflow"], "train/total")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)]
    assert len(client.list_artifacts(ids["mlflow"], "pictures")) == 2
