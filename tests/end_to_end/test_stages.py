"""A student and its teacher, from one command to predictions and a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # a teacher and a student are trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Workdir of a PKT student on 18 regions, and the words that started it."""
    folder = tmp_path_factory.mktemp("student")
    words = [
        f"--config={ROOT}/configs/comparison.py:distill.pkt",
        f"--config.data.dir={folder}/data",
        "--config.data.regions=18",
        "--config.folds=2",
        "--config.fold=0",
        "--config.epochs=1",
        "--config.batch_size=4",
        "--config.encoder=mu/16",
        f"--workdir={folder}/run",
    ]
    assert main(words) == 0
    return folder / "run", words


def test_the_teacher_is_trained_once_and_the_student_drops_its_heads(run, capsys):
    workdir, words = run
    fold = workdir / "fold_0"
    about = json.loads((fold / "teacher/model.json").read_text())
    assert about["config"]["method"] == "distill.dgkd"
    assert len(about["omics"]["mean"]) == 80
    teacher = (fold / "teacher/metrics.jsonl").read_bytes()
    (fold / "predictions.csv").unlink()  # as if killed in the student's stage
    assert main(words) == 0
    assert "fold 0 teacher" not in capsys.readouterr().out
    assert (fold / "teacher/metrics.jsonl").read_bytes() == teacher


def test_a_model_without_a_map_predicts_and_says_so(run, tmp_path, capsys):
    workdir, _ = run
    (tmp_path / "img").mkdir()
    pixels = np.random.default_rng(0).integers(60, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "img/a.png")
    flags = [f"--checkpoint={workdir}", f"--images={tmp_path}/img"]
    assert main(["predict", *flags, f"--out={tmp_path}/p"]) == 0
    told = capsys.readouterr()
    assert "1 of 1 images graded" in told.out
    assert "no class activation maps: method 'distill.pkt' has none" in told.err
    assert main(["explain", *flags, f"--out={tmp_path}/e"]) == 2
    assert "no class activation map, method 'distill.pkt'" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


@pytest.mark.usefixtures("without_plots")
def test_its_report_omits_the_maps_with_the_reason(run):
    workdir, _ = run
    assert main(["report", f"--workdir={workdir}"]) == 0
    page = (workdir / "report.html").read_text()
    assert "Omitted: no class activation map, method" in page
