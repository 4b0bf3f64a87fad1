"""Two processes over gloo are one process with two devices, bit for bit.

The reference is the ordinary run in one process: its files are compared as bytes.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.training import multihost
from tests.support import xla_flags
from tests.support.small_runs import RESUMABLE, ROOT, assert_same, words

SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, workdir, *fields, processes):
    """The processes of one run, their output in files beside the workdir."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": xla_flags.COMPILE_FAST,
    }
    cores = f"--config.cpu_devices={2 // processes}"
    command = words(folder / "data", workdir, cores, *fields)
    port = free_port()
    started = []
    for k in range(processes):
        more = [f"--coordinator=127.0.0.1:{port}", f"--process_id={k}",
                f"--num_processes={processes}", "--heartbeat_timeout=20"]  # fmt: skip
        with open(f"{workdir}.{k}.log", "w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, str(ROOT / "launch.py"), *command]
                    + (more if processes > 1 else []),
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def one_process(folder):
    (process,) = start(folder, folder / "one", processes=1)
    assert process.wait(SECONDS) == 0
    return folder / "one"


@pytest.mark.slow
def test_two_processes_write_what_one_with_two_devices_writes(folder, one_process):
    started = start(folder, folder / "two", processes=2)
    assert [p.wait(SECONDS) for p in started] == [0, 0]
    assert_same(folder / "two", one_process)
    told = Path(f"{folder / 'two'}.1.log").read_text()
    assert "step" not in told  # one of them talks


@pytest.mark.slow
def test_two_processes_select_the_step_that_one_selects(folder):
    fields = ("--config.validation=0.2", "--config.epochs=4")
    fields += ("--config.early_stopping=1", "--config.fold=0")
    for name, count in (("selected", 1), ("selected_by_two", 2)):
        started = start(folder, folder / name, *fields, processes=count)
        assert [p.wait(SECONDS) for p in started] == [0] * count
    for name in ("metrics.jsonl", "best.json", "validation.csv", "predictions.csv"):
        one, two = (
            folder / run / "fold_0" / name for run in ("selected", "selected_by_two")
        )
        assert one.read_bytes() == two.read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(
    folder, one_process, victim
):
    workdir = folder / f"killed_{victim}"
    started = start(folder, workdir, processes=2)
    try:
        manifest = workdir / "fold_0/checkpoints/2/manifest.json"
        deadline = time.monotonic() + SECONDS
        while not manifest.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        started[victim].send_signal(signal.SIGKILL)
        code = started[1 - victim].wait(40)
    finally:
        for process in started:
            process.kill()
            process.wait()
    # Ours, or JAX's own where the connection to process 0 broke first.
    assert code in (4, -signal.SIGABRT)
    told = Path(f"{workdir}.{1 - victim}.log").read_text()
    assert "has lost another" in told or "another task died" in told
    if victim == 0:  # what is left is of one kind
        return
    again = start(folder, workdir, processes=2)
    assert [p.wait(SECONDS) for p in again] == [0, 0]
    assert_same(workdir, one_process)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--process_id=0"], "nothing without --coordinator"),
        (["--coordinator=here"], "expected HOST:PORT"),
        (["--coordinator=here:1234"], "requires --process_id and --num_processes"),
        (["--coordinator=auto", "--process_id=1"], "by itself"),
        (["--coordinator=h:1", "--process_id=2", "--num_processes=2"], "got 2 of"),
        (["--coordinator=h:1", "--heartbeat_timeout=0"], "expected 1 or more seconds"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, capsys, more, message):
    assert main([*RESUMABLE, f"--workdir={tmp_path / 'run'}", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_alone_everything_is_what_it_was():
    rows = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(multihost.gather(rows), rows)
    assert multihost.gather_texts("α") == ["α"]
    assert multihost.broadcast(7) == 7
    multihost.require_equal({"a": 1})
    with pytest.raises(ValueError, match="mine"), multihost.raise_on_all():
        raise ValueError("mine")
