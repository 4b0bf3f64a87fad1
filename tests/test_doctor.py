"""Doctor: what is missing is said with its remedy, and the exit code follows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fof_jax import doctor
from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main

ROOT = Path(__file__).parents[1]


def load(name, *more):
    return config_flag.load([f"--config={ROOT}/configs/{name}.py", *more])


def test_a_small_phantom_passes(tmp_path, capsys):
    words = [
        "doctor",
        f"--config={ROOT}/configs/phantom.py",
        "--config.encoder=mu/16",
        f"--config.data.dir={tmp_path}",
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")]
    subjects = [line.split()[1] for line in lines if line.startswith("PASS")]
    for subject in ("jax:", "config:", "data:", "weights:", "step:", "memory:"):
        assert subject in subjects
    assert not list(tmp_path.iterdir())  # it looks, and writes nothing


def test_a_missing_store_fails_with_its_remedy(tmp_path):
    config = load("cohort", f"--config.data.dir={tmp_path}")
    finding = doctor.data(config)
    assert finding.verdict == doctor.FAIL
    assert "data build" in finding.found


def test_missing_weights_and_a_bad_config_fail(tmp_path, capsys):
    missing = f"--config.init.checkpoint={tmp_path}/none"
    with pytest.raises(ValueError, match="none does not exist. Pass a folder"):
        doctor.initial_weights(load("phantom", missing))
    words = ["doctor", f"--config={ROOT}/configs/phantom.py", "--config.epochs=0"]
    assert main(words) == 1
    assert "FAIL  config: epochs: got 0" in capsys.readouterr().out


def test_another_version_is_a_warning_and_a_missing_package_a_failure(monkeypatch):
    asked = ["numpy<1", "no-such-package>=1"]
    monkeypatch.setattr(doctor, "_requirements", lambda: asked)
    first, second = doctor.versions()
    assert (first.verdict, first.remedy) == (doctor.WARN, "pip install 'numpy<1'.")
    assert second.verdict == doctor.FAIL
    assert "no-such-package" in second.remedy


def test_too_little_memory_fails(monkeypatch):
    monkeypatch.setattr(doctor, "estimate", lambda config: 10 * 2**30)
    monkeypatch.setattr(doctor.reader, "available_memory", lambda: 2**30)
    finding = doctor.memory(load("phantom"))
    assert finding.verdict == doctor.FAIL
    assert "10240 MiB" in finding.found
    assert "batch_size" in finding.remedy


ESTIMATE = """
import sys
from benchmarks import program
from fof_jax import doctor
print(doctor.estimate(program.config(
    encoder="mu/16", data_image_size=256, batch_size=8
)))
"""


@pytest.mark.slow
def test_the_memory_of_a_step_is_within_a_quarter_of_the_peak():
    """Each in a process of its own: the estimate, and a step that runs."""
    estimated, measured = (
        subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for words in (
            ["-c", ESTIMATE],
            ["benchmarks/step.py", "--encoder=mu/16", "--image=256", "--batch=8"],
        )
    )
    peak = json.loads(measured)["peak_gib"] * 2**30
    assert int(estimated) == pytest.approx(peak, rel=0.25)
