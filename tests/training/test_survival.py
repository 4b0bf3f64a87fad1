"""Locks, signals, full disks, damaged and foreign files: what a run survives, and how.

The reference is always the same run left alone: files are compared as bytes,
parameters number by number.
"""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from benchmarks.robustness import fuzz, kill
from fof_jax import files
from fof_jax.training import checkpoint, preemption
from fof_jax.training import state as training_state
from tests.support.at_step import when_step
from tests.support.small_runs import ROOT, assert_same, launch

# --- Locks ---


def test_a_fold_is_held_by_one_process_who_is_named(finished, data, capsys):
    path = finished / ".locks/fold_1"
    with files.exclusive_lock(path, "it", print):
        assert launch(data, finished, "--config.fold=0") == 0  # another fold
        assert launch(data, finished) == 2  # all folds
        err = capsys.readouterr().err
        assert f"fold 1 of {finished} is in use by process {os.getpid()} on" in err
        assert "since 2" in err
        assert launch(data, finished, "--config.fold=1") == 2
    assert launch(data, finished, "--config.fold=1") == 0


def test_a_lock_ends_with_its_holder_however_it_ends(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from fof_jax import files\n"
        "with files.exclusive_lock(Path(sys.argv[1]), 'it', print):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with holder, holder.stdout:
        holder.stdout.readline()
        with (
            pytest.raises(ValueError, match=f"it is in use by process {holder.pid}"),
            files.exclusive_lock(tmp_path / "lock", "it", print),
        ):
            pass
        holder.kill()
    with files.exclusive_lock(tmp_path / "lock", "it", print):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    said = []
    with files.exclusive_lock(tmp_path / "lock", "it", said.append):
        pass
    assert "without locks" in said[0]


@pytest.mark.slow
def test_folds_as_jobs_of_their_own_end_as_one_run(finished, data, tmp_path):
    for k in (1, 0):
        assert launch(data, tmp_path, f"--config.fold={k}") == 0
    assert_same(tmp_path, finished)


# --- Signals ---


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_same_command_ends_alike(
    finished, data, tmp_path, capsys, monkeypatch, number, code
):
    def ask():
        os.kill(os.getpid(), number)
        time.sleep(0.2)  # the thread that watches has read it

    before = [signal.getsignal(s) for s in preemption.SIGNALS]
    with monkeypatch.context() as patched:
        when_step(2, ask, patched)
        assert launch(data, tmp_path) == code
    assert [signal.getsignal(s) for s in preemption.SIGNALS] == before
    told = capsys.readouterr()
    assert "run the same command again to resume" in told.err
    assert "Traceback" not in told.err
    assert "fold 0: saved at step 3 of 6" in told.out  # off the rhythm of save_every
    assert launch(data, tmp_path) == 0
    assert "resumes from step 3 of 6" in capsys.readouterr().out
    assert_same(tmp_path, finished)


def test_a_second_signal_leaves_at_once():
    script = (
        "import os, signal, time; from fof_jax.training import preemption\n"
        "with preemption.signal_handlers() as request:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.5); assert request.code == 143\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 130
    assert time.monotonic() - start < 30


def test_outside_the_main_thread_nothing_is_asked():
    codes = []

    def work():
        with preemption.signal_handlers() as request:
            codes.append(request.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]


def test_workers_that_a_signal_ended_are_no_fault():
    def batches():
        yield 1
        raise RuntimeError("Worker process was terminated unexpectedly")

    request = preemption.StopRequest()
    with pytest.raises(RuntimeError):
        list(request.until(batches(), alone=True))
    request.code = 143
    assert list(request.until(batches(), alone=True)) == [1]
    with pytest.raises(preemption.Stopped):
        list(request.until(batches(), alone=False))


def test_a_checkpoint_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    clock, never = checkpoint.SaveTimer(2.0), checkpoint.SaveTimer(0.0)
    now[0] = 119.0
    assert not clock.due()
    now[0] = 120.0
    assert clock.due()
    assert not clock.due()
    now[0] = 239.0
    clock.restart()
    now[0] = 358.0
    assert not clock.due()
    assert not never.due()


# --- Kills, seen from what they leave ---


def resumed(finished, tmp_path):
    """A copy of the run, in which fold 1 is not finished."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "fold_1/predictions.csv").unlink()
    return run


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_is_done_again(finished, data, tmp_path):
    run = resumed(finished, tmp_path)
    log = run / "fold_1/metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert "test_accuracy" in lines[-1]
    log.write_text("".join(lines[:-1]) + '{"step": 6, "test_acc')
    assert launch(data, run) == 0
    assert_same(run, finished)


@pytest.mark.slow
def test_a_first_checkpoint_that_was_cut_off_is_no_damage(
    finished, data, tmp_path, capsys
):
    run = resumed(finished, tmp_path)
    shutil.rmtree(run / "fold_1/checkpoints/4")
    (run / "fold_1/checkpoints/6" / files.MANIFEST).unlink()
    (run / "fold_1/checkpoints/8.orbax-checkpoint-tmp").mkdir()
    assert launch(data, run) == 0
    assert "not finished; training begins anew" in capsys.readouterr().out
    assert not (run / "fold_1/checkpoints/8.orbax-checkpoint-tmp").exists()
    assert_same(run, finished)


def test_where_every_checkpoint_is_damaged_nothing_begins_anew(
    finished, data, tmp_path, capsys
):
    run = resumed(finished, tmp_path)
    for step in (4, 6):
        (run / f"fold_1/checkpoints/{step}" / files.MANIFEST).write_text("[]")
    for _ in range(2):  # and not the second time either
        assert launch(data, run) == 2
        assert "is whole" in capsys.readouterr().err


@pytest.mark.slow
def test_the_number_of_workers_may_change_between(finished, data, tmp_path):
    run = resumed(finished, tmp_path)
    shutil.rmtree(run / "fold_1/checkpoints/6")
    assert launch(data, run, "--config.data.cache=none", "--config.data.workers=1") == 0
    assert_same(run, finished)


@pytest.mark.slow
def test_a_checkpoint_of_two_devices_goes_on_with_one(finished, data, tmp_path, capsys):
    run = resumed(finished, tmp_path)
    shutil.rmtree(run / "fold_1/checkpoints/6")
    assert launch(data, run, "--config.devices=1") == 0
    assert "resumes from step 4" in capsys.readouterr().out
    got, want = (
        [json.loads(x) for x in (r / "fold_1/metrics.jsonl").read_text().splitlines()]
        for r in (run, finished)
    )
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for a, b in zip(got, want, strict=True):
        # float32: the devices sum in another order; 1e-5 is ten times what was seen
        assert a.get("total", 0) == pytest.approx(b.get("total", 0), rel=1e-5)


# --- Files and folders that are not as they should be ---


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "is not what a run writes, or damaged"),
        ("config.json", '{"fields": 3, "made_with": {}}', "is not what a run writes"),
        ("splits.json", "{", "is not a file of splits"),
        ("fold_1/metrics.jsonl", "?\n", "line 1 is damaged"),
    ],
)
def test_a_damaged_file_of_a_run(finished, data, tmp_path, capsys, name, text, message):
    run = resumed(finished, tmp_path)
    (run / name).write_text(text)
    assert launch(data, run) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_folder_of_something_else_is_refused(data, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    assert launch(data, tmp_path) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_a_workdir_that_cannot_be_made(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert launch(data, tmp_path / "file" / "run") == 2
    assert "Not a directory" in capsys.readouterr().err


def test_images_that_are_others_are_another_run(finished, data, tmp_path, capsys):
    run = resumed(finished, tmp_path)
    known = json.loads((run / "config.json").read_text())
    known["fields"]["data_hash"] = "0123456789abcdef"
    (run / "config.json").write_text(json.dumps(known))
    assert launch(data, run) == 2
    assert "data_hash: '0123456789abcdef' there" in capsys.readouterr().err


@pytest.mark.slow
def test_other_versions_are_said(finished, data, tmp_path, capsys):
    run = resumed(finished, tmp_path)
    known = json.loads((run / "config.json").read_text())
    assert {"commit", "device", "uncommitted_changes"} <= set(known["made_with"])
    known["made_with"]["packages"]["jax"] = "0.9.0"
    (run / "config.json").write_text(json.dumps(known))
    assert launch(data, run) == 0
    assert "was begun with jax 0.9.0 then" in capsys.readouterr().out


@pytest.mark.slow
# Orbax's event loop is closed while TensorStore's threads still report to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_full_disk_is_a_message_and_room_mends_it(
    finished, data, tmp_path, capsys, limit
):
    run = resumed(finished, tmp_path)
    shutil.rmtree(run / "fold_1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Not a full disk, but the same errors: no file may grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code = launch(data, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("error: ") == 1
    assert launch(data, run) == 0
    assert_same(run, finished)


def test_a_disk_that_will_be_full_is_seen_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    kept = checkpoint.Checkpoints(tmp_path / "c")
    state = training_state.TrainState(
        np.int32(1), {"a": np.ones(100)}, {}, [np.ones(1)]
    )
    with pytest.raises(OSError, match="checkpoint 1 cannot be written"):
        kept.save(state)
    kept.close()


def test_a_damaged_shard_ends_the_run_with_a_message(finished, data, tmp_path, capsys):
    hurt = tmp_path / "data"
    shutil.copytree(data, hurt)
    (shard,) = (hurt / "phantom/store").rglob("*.array_record*")
    shard.write_bytes(shard.read_bytes()[:-70_000])
    run = resumed(finished, tmp_path)
    shutil.rmtree(run / "fold_1")
    assert launch(hurt, run) == 2
    err = capsys.readouterr().err
    assert "is damaged" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damage_is_never_a_wrong_number_nor_a_traceback(kind, tmp_path):
    assert sum(fuzz.outcomes(kind, 25, 1, tmp_path).values()) == 25


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_left_alone(tmp_path):
    case = kill.Case(student="", folds=3)
    kill.run_to_end(case, tmp_path, tmp_path / "reference")
    for name, number in (("kills", signal.SIGKILL), ("terms", signal.SIGTERM)):
        # One in each kind of phase: step, save, evaluation, change of the fold.
        hits, workdir = kill.series(case, tmp_path, name, number, 4, 1, seed=1)
        want = -signal.SIGKILL if name == "kills" else 143
        assert [h.codes for h in hits] == [(want,)] * 4
        assert kill.differences(case, tmp_path / "reference", workdir) == []
