"""Cells of a comparison: states, failures, locks and time left, with stub processes.

The child module is replaced by a script that writes predictions, fails or dies, so that
nothing is trained.
"""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fof_jax import files
from fof_jax.training import cells
from fof_jax.training.cells import Cell, State
from fof_jax.training.preemption import Stopped

# Words: PARENT_PID, what to do, the predictions file.
STUB = """
    import os, signal, sys, pathlib
    what, path = sys.argv[2], pathlib.Path(sys.argv[3])
    print("step 1")
    if what == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("predictions")
    elif what == "refuse":
        print("error: batch_size: 9 is more than\\n  the 8 regions.")
        sys.exit(2)
    elif what == "raise":
        raise RuntimeError("out of luck")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "stub_child.py").write_text(textwrap.dedent(STUB))
    monkeypatch.setattr(cells, "CHILD", "stub_child")
    monkeypatch.setattr(cells, "_POLL", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return cells.Folder(tmp_path / "tables")


def train(folder, actions):
    """Runs a cell per action; returns them and the lines."""
    made = [Cell(42, i, f"row{i}") for i in range(len(actions))]
    lines, trained = [], []
    cells.run(
        folder,
        made,
        lambda cell: [actions[cell.fold], str(folder.predictions(cell))],
        after=lambda cell, stop: trained.append(cell),
        log=lines.append,
    )
    return made, lines, trained


def test_a_failing_cell_keeps_its_reason_and_the_others_go_on(folder):
    made, lines, trained = train(folder, ["refuse", "raise", "die", "no file", "write"])
    states = [cells.state(folder, cell) for cell in made]
    assert states == [*[State.FAILED] * 4, State.FINISHED]
    assert trained == made
    reasons = [cells.outcome(folder, cell)["reason"] for cell in made]
    assert reasons[0] == "error: batch_size: 9 is more than the 8 regions."
    assert reasons[1] == "RuntimeError: out of luck"
    assert "SIGKILL, as the system does where memory is short" in reasons[2]
    assert reasons[3] == "step 1"
    assert reasons[4] == ""
    assert "row0, seed 42, fold 0: failed after" in lines[1]
    # Once more: failed cells are tried again, finished ones are not.
    _, lines, again = train(folder, ["write", "write", "write", "write", "refuse"])
    assert again == made[:4]
    assert all(cells.state(folder, cell) is State.FINISHED for cell in made)


def test_a_cell_of_another_process_is_left_to_it(folder):
    cell = Cell(42, 0, "row0")
    with files.exclusive_lock(folder.lock(cell), "cell", print):
        assert cells.state(folder, cell) is State.BUSY
        _, lines, trained = train(folder, ["write", "write"])
    assert [c.fold for c in trained] == [1]
    assert lines[-1] == "row0, seed 42, fold 0: in another process"
    assert cells.state(folder, cell) is State.OPEN


def test_time_left_is_of_measured_cells_that_were_not_resumed(folder):
    open_cells = [Cell(42, fold, row) for row in ("a", "b") for fold in (0, 1)]
    assert cells.seconds_left(folder, open_cells) is None
    measured = [("a", 10.0, False, 0), ("a", 20.0, False, 0), ("a", 60.0, False, 0)]
    measured += [("a", 1.0, True, 0), ("c", 40.0, False, 0), ("c", 1.0, False, 2)]
    for i, (row, seconds, resumed, code) in enumerate(measured):
        files.write_text(
            folder.outcome(Cell(7, i, row)),
            json.dumps(
                {"row": row, "seconds": seconds, "resumed": resumed, "code": code}
            ),
        )
    # Row a: the median 20; row b: the median of 10, 20, 40 and 60.
    assert cells.seconds_left(folder, open_cells) == 2 * 20 + 2 * 30
    files.write_text(folder.predictions(open_cells[0]), "")
    assert cells.seconds_left(folder, open_cells) == 20 + 2 * 30


def test_a_stop_is_passed_on_and_leaves_no_outcome(folder, tmp_path):
    (tmp_path / "stub_child.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"os.kill({os.getpid()}, signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(Stopped, match="SIGTERM"):
        train(folder, ["write", "write"])
    cell = Cell(42, 0, "row0")
    assert cells.state(folder, cell) is State.OPEN
    assert cells.outcome(folder, cell) == {}


def test_a_child_ends_with_its_parent(tmp_path):
    """The parent is killed; the child, which sleeps, is gone."""
    if sys.platform != "linux":
        pytest.skip("the kernel's signal on a parent's death is Linux's")
    child = (
        "import os, sys; from fof_jax.cli import child; "
        "child.end_with(int(sys.argv[1])); print(os.getpid(), flush=True); "
        "import time; time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]); "
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as started:
        pid = int(started.stdout.readline())
        started.kill()
    for _ in range(100):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return
        if stat.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} goes on without its parent")
