"""Several steps in one call give the run of single steps, byte for byte.

The reference is a run of `data.cache=ram`, step by step. Runs are processes of their
own with XLA's default options: those that the tests compile with change last digits.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from fof_jax.cli import config as config_flag
from fof_jax.data.graphs.padding import PaddedGraphs
from fof_jax.training import fold as folds
from fof_jax.training import fold_metrics, logger, option_ranges, parallel, train
from fof_jax.training.compilation import Ahead
from fof_jax.types import Batch
from tests.support.small_runs import RESUMABLE, assert_same, words

SEVERAL = ("--config.data.cache=device", "--config.steps_per_call=2")
# A run that gets a signal when the metrics of its first call are read.
SIGNALED = """
import os, signal, sys, time
from fof_jax.cli.main import main
from fof_jax.training import fold_metrics
read = fold_metrics.DelayedMetrics._read
def signaled(metrics, pending):
    read(metrics, pending)
    if pending is not None and pending[0] == 0:  # a second signal ends at once
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
fold_metrics.DelayedMetrics._read = signaled
sys.exit(main(sys.argv[1:]))
"""
PLAIN = "import sys; from fof_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"


def run(data, workdir, *more, script=PLAIN):
    """Exit code and output of a run with XLA's default options."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    del environment["XLA_FLAGS"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words(data, workdir, *more)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """Finished runs of single steps on one device and on two."""
    runs = {}
    for devices in (1, 2):
        runs[devices] = tmp_path_factory.mktemp("single") / f"{devices}"
        code, text = run(data, runs[devices], f"--config.devices={devices}")
        assert code == 0, text
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_the_run_is_that_of_single_steps(data, tmp_path, single, devices):
    # Steps 1-2, 3 (the epoch ends), 4 (saved), 5-6.
    code, text = run(data, tmp_path, f"--config.devices={devices}", *SEVERAL)
    assert code == 0, text
    assert text.count("compiling 2 steps …") == 1  # once for both folds
    assert_same(tmp_path, single[devices])


@pytest.mark.slow
def test_a_run_of_single_steps_goes_on_with_several(data, tmp_path, single):
    """The process ended after the second checkpoint, before the other fold began."""
    killed = shutil.copytree(single[2], tmp_path / "killed")
    shutil.rmtree(killed / "fold_1")
    (killed / "results.json").unlink()
    (killed / "fold_0/predictions.csv").unlink()
    shutil.rmtree(killed / "fold_0/checkpoints/6")
    code, text = run(data, killed, *SEVERAL)
    assert code == 0, text
    assert "resumes from step 4 of 6" in text
    assert_same(killed, single[2])


@pytest.mark.slow
def test_a_signal_once_the_first_call_is_saved(data, tmp_path, single):
    """The second call, of one step, ends."""
    code, text = run(data, tmp_path, *SEVERAL, script=SIGNALED)
    assert code == 143, text
    assert "saved at step 3 of 6" in text
    code, text = run(data, tmp_path, *SEVERAL)
    assert code == 0, text
    assert_same(tmp_path, single[2])


def fold_of(cache=None, setup=None, log=print, **fields):
    """What the plan and the metrics of a fold read: ten steps an epoch, two epochs."""
    config = config_flag.load(
        [*RESUMABLE, "--config.eval_every=0", "--config.save_every=100", *SEVERAL]
    )
    config.update(fields)
    fold = object.__new__(folds.Fold)
    rows = folds.Rows(np.arange(40), np.arange(40, 50))
    values = {"config": config, "rows": rows, "cache": cache, "setup": setup}
    for name, value in (values | {"log": log}).items():
        object.__setattr__(fold, name, value)
    return fold


class Lines(logger.NullLogger):
    """Keeps what is logged of each step."""

    def __init__(self):
        self.lines = []

    def step(self, step, figures):
        self.lines.append((step, figures))


def calls(fold, first=0):
    """First steps of the calls from a step on."""
    firsts = [first]
    while firsts[-1] < fold.total_steps:
        firsts.append(firsts[-1] + fold.steps_together(firsts[-1]))
    assert firsts.pop() == fold.total_steps
    return firsts


def test_no_call_crosses_the_end_of_an_epoch_or_a_checkpoint():
    fold = fold_of(steps_per_call=4)
    # Ten steps an epoch: two calls of four, and two single steps.
    assert calls(fold) == [0, 4, 8, 9, 10, 14, 18, 19]
    assert calls(fold, first=7) == [7, 8, 9, 10, 14, 18, 19]
    saved = fold_of(steps_per_call=4, save_every=6)
    assert calls(saved) == [0, 4, 5, 6, 10, 11, 12, 16, 17, 18, 19]
    assert calls(fold_of(steps_per_call=1)) == list(range(20))
    assert calls(fold_of(steps_per_call=10)) == [0, 10]


def test_more_steps_than_an_epoch_or_a_checkpoint_has_are_all_of_these():
    assert calls(fold_of(steps_per_call=64)) == [0, 10]
    assert calls(fold_of(steps_per_call=64, save_every=5)) == [0, 5, 10, 15]


def test_batches_of_different_shapes_go_one_by_one(monkeypatch):
    """Cell graphs are padded to the largest of a batch, in buckets."""
    nodes = iter([8, 8, 8, 16, 16, 16] + [8] * 14)

    def batches(fold, start_step):
        assert start_step == 0
        for count in nodes:
            graph = PaddedGraphs(
                x=np.zeros((4, count, 3), np.float32),
                edge_index=np.zeros((4, 2, 8 * count), np.int32),
                node_mask=np.ones((4, count), bool),
            )
            yield Batch(image=None, index=np.arange(4, dtype=np.int32), graph=graph)

    monkeypatch.setattr(train, "train_batches", batches)
    fold = fold_of(steps_per_call=2)
    sizes = []
    for call in train.batches_of_calls(fold, 0, 20):
        placed = parallel.place_several(call, jax.devices()[:1])
        assert placed.index.shape == (1, len(call), 4)
        sizes.append(len(call))
    assert sizes == [2, 1, 1, *[2] * 8]


def test_steps_are_shown_before_the_second_program_is_compiled(tmp_path):
    """On a terminal, where each step is: their rate counts from its own program."""
    shown = []

    def log(text):
        shown.append(text)

    log.live = shown.append
    setup = types.SimpleNamespace(train_step=Ahead(jax.jit(lambda a: a)))
    fold = fold_of(setup=setup, log=log)
    with logger.MetricsLogger(
        tmp_path, label="fold 0", first=0, total=20, per_epoch=10, every=1, log=log
    ) as lines:
        metrics = fold_metrics.DelayedMetrics(lines, fold)
        batch = Batch(image=None, index=np.arange(4, dtype=np.int32))
        lines.begin(0)
        metrics.push(0, {"total": np.float32([1, 2])}, (batch, batch))
        train.step_program(fold, lines, metrics, 2, 1, (np.float32(0),))
        metrics.push(2, {"total": np.float32(3)}, (batch,))
        metrics.settle()
    steps = [i for i, text in enumerate(shown) if text.startswith("fold 0 step")]
    assert steps == [0, 1, len(shown) - 1]
    assert shown[2].startswith("compiling the step")
    rates = [float(re.search(r"\(([-\d.]+) steps/s", shown[i])[1]) for i in steps]
    assert min(rates) > 0


def test_images_in_host_memory_are_refused():
    config = config_flag.load([*RESUMABLE])
    config.steps_per_call = 2
    with pytest.raises(ValueError, match="got 2 with data.cache='ram'"):
        option_ranges.check_ranges(config)
    config.data.cache = "device"
    option_ranges.check_ranges(config)
    config.steps_per_call = 0
    with pytest.raises(ValueError, match="steps_per_call: got 0, expected 1 or more"):
        option_ranges.check_ranges(config)


def test_the_metrics_of_a_call_are_logged_step_by_step():
    fold = fold_of()
    log = Lines()
    lines = log.lines
    metrics = fold_metrics.DelayedMetrics(log, fold)
    batch = Batch(image=None, index=np.arange(4, dtype=np.int32))
    metrics.push(4, {"total": np.float32([1, 2])}, (batch, batch))
    assert not lines  # read while the next call runs
    metrics.push(6, {"total": np.float32(3)}, (batch,))
    assert [(step, line["total"]) for step, line in lines] == [(4, 1.0), (5, 2.0)]
    metrics.settle()
    assert lines[-1][0] == 6
    assert json.dumps(lines[-1][1])  # plain numbers


def test_a_step_of_a_call_that_is_not_finite_is_named():
    data = types.SimpleNamespace(images=[f"image_{i}" for i in range(8)])
    fold = fold_of(cache=types.SimpleNamespace(store=data))
    metrics = fold_metrics.DelayedMetrics(Lines(), fold)
    one, two = (
        Batch(image=None, index=np.arange(k, k + 4, dtype=np.int32)) for k in (0, 4)
    )
    metrics.push(4, {"total": np.float32([1, np.nan])}, (one, two))
    with pytest.raises(folds.NonFiniteError, match="step 5: total.*batch: image_4, "):
        metrics.settle()
