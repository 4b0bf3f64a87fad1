"""Doctor: what is missing is said with its remedy, and the exit code follows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.training import doctor, memory_estimate
from tests.support import bag_files

ROOT = Path(__file__).parents[2]


def load(name, *more, arg=""):
    file = f"{ROOT}/configs/{name}.py" + (f":phantom-{arg}" if arg else "")
    return config_flag.load([f"--config={file}", *more])


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_was_computed_here_before_is_not_in_the_estimate(monkeypatch):
    """It compiles elsewhere, on as many devices, and hands its figure back."""
    # Of this process alone.
    monkeypatch.setattr(memory_estimate, "_peak", lambda: 2**60)
    config = load("phantom", "--config.encoder=mu/16", "--config.batch_size=4")
    assert 2**28 < memory_estimate.estimate(config) < 2**32


def ended(*_):
    os._exit(9)


def test_a_compilation_that_the_system_ends_is_a_failure(monkeypatch):
    monkeypatch.setattr(memory_estimate, "_peak_of_compiling", ended)
    config = load("phantom")
    with pytest.raises(RuntimeError, match="memory is short"):
        memory_estimate.estimate(config)


def test_a_student_is_looked_at_when_there_are_data(tmp_path):
    config = load("comparison", f"--config.data.dir={tmp_path}", arg="distill.kl")
    for question in (doctor.tiny_step, doctor.memory):
        finding = question(config)
        assert finding.verdict == doctor.WARN
        assert "distill.kl reads more than images" in finding.found


@pytest.mark.slow  # large programs
@pytest.mark.parametrize("row", ["image.resnet18", "distill.kl", "omics"])
def test_a_step_of_every_kind_of_row_is_taken(row, tmp_path, capsys):
    """Of images alone without data; of a teacher and its student on a store."""
    words = [f"--config.data.dir={tmp_path}", "--config.data.regions=24"]
    config = load("comparison", *words, arg=row)
    if row != "image.resnet18":
        file = f"--config={ROOT}/configs/comparison.py:phantom-{row}"
        assert main(["data", "build", file, *words]) == 0
    losses = doctor.tiny_step(config)
    assert losses.verdict == doctor.PASS, losses
    assert losses.found.count(",") == (2 if row == "distill.kl" else 1)
    with_memory = doctor.memory(config)
    assert with_memory.verdict == doctor.PASS, with_memory


@pytest.mark.slow  # a store of bags, and a program
def test_a_step_of_bags_is_taken(tmp_path, capsys):
    table = bag_files.write_cohort(tmp_path, [5, 9, 14, 3, 8, 17, 6, 4, 12, 7, 10, 1])
    words = [
        "--config=slides",
        f"--config.data.table={table}",
        f"--config.data.dir={tmp_path}/data",
        "--config.data.classes=('0', '1', '2')",
        "--config.data.biomarkers=()",
        "--config.folds=2",
        "--config.batch_size=2",
    ]
    assert main(["data", "build", *words]) == 0
    config = config_flag.load(words)
    assert doctor.tiny_step(config).verdict == doctor.PASS
    assert doctor.memory(config).verdict == doctor.PASS


@pytest.mark.slow  # two programs
def test_several_steps_per_call_are_in_the_estimate():
    """Seven more batches of 4 images of 512 px, half of each on one of two devices."""
    words = ("--config.data.image_size=512", "--config.encoder=mu/16")
    one = load("phantom", *words, "--config.batch_size=4")
    several = load("phantom", *words, "--config.batch_size=4")
    several.steps_per_call = 8
    ((step, _),) = memory_estimate.programs(one)
    ((steps, _),) = memory_estimate.programs(several)
    sizes = [p.memory_analysis().argument_size_in_bytes for p in (step, steps)]
    assert sizes[1] - sizes[0] > 7 * 2 * 512 * 512 * 3


def test_too_little_memory_fails(monkeypatch):
    monkeypatch.setattr(doctor.memory_estimate, "estimate", lambda config: 10 * 2**30)
    monkeypatch.setattr(doctor.cache, "available_memory", lambda: 2**30)
    finding = doctor.memory(load("phantom"))
    assert finding.verdict == doctor.FAIL
    assert "10240 MiB" in finding.found
    assert "batch_size" in finding.remedy


def words(folder):
    """A training run at a size whose memory is well above that of the imports."""
    return [
        f"--config={ROOT}/configs/phantom.py:large",
        "--config.encoder=mu/16",
        "--config.data.image_size=256",
        "--config.batch_size=8",
        "--config.data.regions=32",
        "--config.folds=2",
        "--config.fold=0",
        "--config.epochs=1",
        "--config.optimizer.warmup_epochs=0",
        f"--config.data.dir={folder}/data",
    ]


TRAIN = """
import pathlib, sys
from fof_jax.cli.main import main
assert main(sys.argv[1:]) == 0
print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_run_is_within_a_quarter_of_the_peak(tmp_path):
    """What the terminal says, against a run that draws, trains, tests and saves.

    A quarter is what doctor is for: whether a run fits. Compiling alone varies by 7%.
    """
    # As a user has it: the tests' own flags compile in another way.
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("XLA", "JAX_C"))}

    def last_line(*command):
        done = subprocess.run(
            [sys.executable, *command, *words(tmp_path)],
            cwd=ROOT,
            env=plain,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    said = last_line("launch.py", "doctor")
    estimated = float(said.partition("needs about")[2].split()[0])
    peak = float(last_line("-c", TRAIN, f"--workdir={tmp_path}/run")) / 1024
    assert estimated == pytest.approx(peak, rel=0.25)
