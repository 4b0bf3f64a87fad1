"""Numbers out of their range and names given twice are refused before anything runs."""

import pytest

from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.training.option_ranges import check_ranges


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "optimizer.learning_rate=-0.01",
            "learning_rate: got -0.01, expected a number",
        ),
        ("optimizer.learning_rate=0", "learning_rate: got 0"),
        ("optimizer.learning_rate=nan", "learning_rate: got nan"),
        ("optimizer.learning_rate=inf", "learning_rate: got inf"),
        ("optimizer.beta1=2", "beta1: got 2.0, expected 0 or more, and less than 1"),
        ("optimizer.beta2=1", "beta2: got 1.0"),
        ("optimizer.eps=0", "eps: got 0"),
        ("optimizer.weight_decay=-1", "weight_decay: got -1"),
        ("optimizer.layer_decay=0", "layer_decay: got 0"),
        ("optimizer.warmup_epochs=15", "got 15 in a run of 12 epochs"),
        ("optimizer.constant_epochs=15", "got 15 in a run of 12 epochs"),
        ("optimizer.warmup_epochs=-1", "warmup_epochs: got -1"),
        ("theta=7", "theta: got 7.0, expected 0 to 1"),
        ("tau=0", "tau: got 0"),
        ("lambda_frl=-5", "lambda_frl: got -5"),
        ("lambda_mca=nan", "lambda_mca: got nan"),
        ("lambda_pos=inf", "lambda_pos: got inf"),
        ("layer_norm_eps=-1", "layer_norm_eps: got -1"),
        ("seed=-1", "seed: got -1"),
        ("eval_every=-1", "eval_every: got -1"),
        ("data.workers=-1", "data.workers: got -1"),
        ("epochs=0", "epochs: got 0, expected 1 or more"),
        ("data.classes=('II',)", "expected two or more classes"),
        ("data.classes=('II','III','II')", "expected each name"),
        ("data.biomarkers=('idh','idh')", "expected each name"),
        ("data.biomarkers=('grade',)", "hold grade, which is not a marker"),
    ],
)
def test_a_run_is_refused(tmp_path, capsys, words, message):
    argv = ["--config=phantom", f"--config.data.dir={tmp_path / 'data'}"]
    assert main([*argv, f"--config.{words}", f"--workdir={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_marker_in_both_lists_is_refused(tmp_path, capsys):
    lists = [
        "--config.data.biomarkers=('idh',)",
        "--config.data.float_markers=('idh',)",
    ]
    assert main(["--config=phantom", *lists, f"--workdir={tmp_path / 'run'}"]) == 2
    assert "both hold idh" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["phantom", "phantom:study", "gbmlgg", "gbmlgg_release", "cohort:release"]
    + ["comparison:fusion.pathomic", "comparison:distill.crd", "comparison:omics"],
)
def test_the_configs_are_inside_their_ranges(name):
    check_ranges(config_flag.load([f"--config={name}"]))
