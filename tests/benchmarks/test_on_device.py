"""tools/on_device.py: rows of commands that succeed, fail and have no time left.

The whole of it is run once, small, on CPU devices.
"""

import json
import sys

import pytest

from tools import on_device


def test_a_command_that_ends():
    done = on_device.run([sys.executable, "-c", "print(7)"], on_device.Clock(60))
    assert (done["code"], done["out"]) == (0, "7\n")


def test_a_command_without_time():
    assert on_device.run(["false"], on_device.Clock(0))["out"].startswith("not run")
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    done = on_device.run(words, on_device.Clock(1.5))
    assert done["code"] is None
    assert on_device.failure(done) == "not finished: the time is over"


def test_a_failed_step_says_why():
    row = on_device.step(["--batch=none"], on_device.Clock(120))
    assert not row["ok"]
    assert "invalid int value" in row["reason"]
    assert "FAILED" in on_device.line({"what": "B = 1"} | row)


def test_a_row_of_the_table():
    row = {"what": "B = 1", "ok": True, "wall_s": 1.23456, "device_peak_gib": None}
    assert on_device.line(row).split() == ["B", "=", "1", "ok", "wall_s", "1.23"]


@pytest.mark.slow  # a dozen processes, each of which compiles
def test_all_parts_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "on_device.json"
    assert on_device.main(["--tiny", f"--out={out}", "--seconds=3000"]) == 0
    result = json.loads(out.read_text())
    assert result["device"].startswith("cpu")
    figures = {part: result[part] for part in ("step", "input", "processes")}
    assert [row["what"] for row in figures["step"]][0] == "B = 1, float32"
    assert figures["input"][-1] == {
        "what": "metrics.jsonl of both are equal",
        "ok": True,
    }
    assert figures["processes"][0]["ok"]
