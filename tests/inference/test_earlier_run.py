"""A run folder that version 0.1 wrote before the package was reorganized.

`tests/golden/run_0_1` is one fold of a small phantom run; `expected.npz` holds what
that version computed with it for three random images. Tolerance: 1e-5 absolute,
float32 computed in another batch.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

import fof_jax
from fof_jax.cli.main import main

RUN = Path(__file__).parents[1] / "golden/run_0_1"


@pytest.fixture
def run(tmp_path):
    """A copy, because commands write into a run's folder."""
    return shutil.copytree(RUN, tmp_path / "run")


def test_it_predicts_and_explains_as_then(run):
    expected = np.load(RUN / "expected.npz")
    model = fof_jax.load(run)
    images = list(expected["images"])
    np.testing.assert_allclose(
        model.predict(images).prob, expected["prob"], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        model.features(images), expected["features"], rtol=0, atol=1e-5
    )
    explanation = model.explain(images[0])
    np.testing.assert_allclose(explanation.A, expected["A"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(explanation.keep, expected["keep"])


@pytest.mark.usefixtures("without_plots")
def test_it_is_reported(run):
    assert main(["report", f"--workdir={run}"]) == 0
    page = next(run.rglob("*.html")).read_text()
    assert "Confusion" in page


def test_another_configuration_does_not_continue_it(run, capsys):
    flags = ["--config=phantom", "--config.encoder=mu/8", f"--workdir={run}"]
    flags += ["--config.data.regions=18", "--config.folds=2"]
    flags += [f"--config.data.dir={run.parent}/data"]
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert "encoder" in err
    # Fields that later versions added have the value that the run had.
    assert "optimizer_name" not in err
    assert "data_omics" not in err
