"""Two students of one teacher, by their commands; whoever comes next resumes it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.training import weights

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def launch(folder: Path, row: str, teacher_dir: Path) -> int:
    return main(
        [
            f"--config={ROOT}/configs/comparison.py:{row}",
            f"--config.data.dir={folder}/data",
            "--config.data.regions=18",
            "--config.folds=2",
            "--config.fold=0",
            "--config.epochs=2",
            "--config.batch_size=4",
            "--config.encoder=mu/16",
            "--config.save_every=1",
            f"--config.teacher_dir={teacher_dir}",
            f"--workdir={folder}/{row}",
        ]
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Folder of a PKT student, whose teacher was trained in `teachers`."""
    folder = tmp_path_factory.mktemp("students")
    assert launch(folder, "distill.pkt", folder / "teachers") == 0
    return folder


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def teacher_in(folder: Path) -> Path:
    (found,) = (p for p in folder.glob("*") if not p.name.startswith("."))
    return found


def test_the_second_student_costs_no_teacher(first, capsys):
    before = files_of(teacher_in(first / "teachers"))
    assert launch(first, "distill.sp", first / "teachers") == 0
    told = capsys.readouterr().out
    assert "fold 0 teacher: already trained" in told
    assert "fold 0 teacher step" not in told
    assert files_of(teacher_in(first / "teachers")) == before
    about = [
        json.loads((first / f"{row}/fold_0/teacher.json").read_text())
        for row in ("distill.pkt", "distill.sp")
    ]
    assert about[0] == about[1]


def test_it_equals_the_teacher_of_a_run_alone(first, tmp_path):
    shutil.copytree(first / "data", tmp_path / "data")
    assert launch(tmp_path, "distill.pkt", "") == 0
    one, other = first / "distill.pkt/fold_0", tmp_path / "distill.pkt/fold_0"
    for folder in ("predictions.csv", "metrics.jsonl"):
        assert (one / folder).read_bytes() == (other / folder).read_bytes()
    alone = weights.digest(weights.read(other / "teacher"))
    assert weights.digest(weights.read(teacher_in(first / "teachers"))) == alone


def test_the_next_student_resumes_an_interrupted_teacher(first, tmp_path, capsys):
    shutil.copytree(first / "data", tmp_path / "data")
    shutil.copytree(first / "teachers", tmp_path / "teachers")
    teacher = teacher_in(tmp_path / "teachers")
    (teacher / "predictions.csv").unlink()  # as if killed after its last step but one
    steps = sorted((teacher / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    shutil.rmtree(steps[-1])
    assert launch(tmp_path, "distill.sp", tmp_path / "teachers") == 0
    step = int(steps[-2].name)
    assert f"fold 0 teacher: resumes from step {step} of" in capsys.readouterr().out
    expected = weights.read(teacher_in(first / "teachers"))
    np.testing.assert_equal(weights.read(teacher).params, expected.params)
