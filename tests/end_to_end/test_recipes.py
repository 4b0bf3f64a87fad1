"""Files of other tools: they parse, and name commands and versions of this package."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml", reason="PyYAML comes with flax")


def test_hooks_are_local_and_run_what_ci_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    entries = " ".join(hook["entry"] for hook in repository["hooks"])
    ci = (ROOT / ".ci/run").read_text()
    for tool in ("ruff check", "ruff format --check", "mypy"):
        assert tool in entries
        assert tool in ci
    for path in re.findall(r"tests/\S+", entries):
        assert (ROOT / path).exists()


def test_the_workflow_runs_ci_on_the_supported_versions():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["run"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"


def test_the_dockerfile_names_extras_that_exist():
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"EXTRAS=([\w,]+)", text)
    assert extras
    for name in ",".join(extras).split(","):
        assert name in project["optional-dependencies"]
    words = {
        line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)
    }
    known = "ARG FROM RUN ENV COPY WORKDIR USER ENTRYPOINT CMD"
    assert words <= set(known.split())


def test_the_job_array_is_a_valid_script_and_trains_a_fold():
    path = ROOT / "examples/slurm_array.sh"
    assert subprocess.run([shutil.which("bash"), "-n", path]).returncode == 0
    text = path.read_text()
    assert '--config.fold="$SLURM_ARRAY_TASK_ID"' in text
    assert "#SBATCH --array=0-4" in text
