"""Lines of a run with and without a terminal; time is a list of seconds here."""

import json

import pytest

from fof_jax.cli import terminal
from fof_jax.training import logger


class Clock:
    """Stands for the module time: what `monotonic` and `time` give."""

    now = 0.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(logger, "time", clock)
    return clock


def opened(folder, log, *, total=100, every=10):
    return logger.MetricsLogger(
        folder, label="fold 0", first=0, total=total, per_epoch=50, every=every, log=log
    )


def test_without_a_terminal_a_line_every_15_seconds(tmp_path, clock):
    lines = []
    with opened(tmp_path, lines.append) as log:
        clock.now = 30.0  # compiling
        log.begin(0)
        for step in range(100):
            clock.now += 0.5
            log.step(step, {"total": 1.0})
    # At 15, 30 and 45 s after compiling, and the last of the 100 steps, at 50 s. The
    # first step comes 30 s after the logger was opened.
    assert [line.split()[3] for line in lines] == [
        "1/100",
        "31/100",
        "61/100",
        "91/100",
        "100/100",
    ]
    assert all("2.00 steps/s" in line for line in lines)
    assert "34 s left in this fold" in lines[1]
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in written] == list(range(10, 101, 10))


def test_a_terminal_shows_one_line(tmp_path, clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    screen = terminal.Terminal()
    with opened(tmp_path, screen, total=3) as log:
        for step in range(3):
            clock.now += 1
            log.step(step, {"total": 1.0})
    screen("done")
    out = capsys.readouterr().out
    assert out.count("\n") == 2  # the last step, and "done"
    first, second, last = out.split("\r\x1b[K")[1:]
    assert first.startswith("fold 0 step 1/3 total 1.0000 (1.00 step")
    assert len(first) == len(second) == 39
    assert last.startswith("fold 0 step 3/3")
    assert last.endswith("\ndone\n")


def test_a_pipe_has_no_control_characters(capsys):
    screen = terminal.Terminal()
    assert screen.live is None
    screen("a line")
    assert capsys.readouterr().out == "a line\n"
