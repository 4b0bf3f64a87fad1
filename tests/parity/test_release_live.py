"""Live comparison: inputs, error messages, and a run if a checkout is available."""

import importlib.util
import os
import sys

import numpy as np
import pytest

from fof_jax.models import vit
from fof_jax.parity import live, release_recording, release_steps, release_tolerances

SIZE = vit.Size(width=16, depth=2, heads=2, mlp=32)


def inputs(steps=2):
    return live.random_inputs(size=SIZE, patch=4, image=16, batch=2, steps=steps)


def test_inputs_have_the_layout_of_a_recording():
    z = inputs()
    method, batch = release_recording.method_of(z), release_recording.batch_of(z, 1)
    assert method.network.encoder.grid == (4, 4)
    assert batch.image.shape == batch.second_view.shape == (2, 16, 16, 3)
    assert float(abs(batch.image - batch.second_view).max()) > 0.1
    variables = release_recording.variables_of(z)
    assert set(variables.params) == {"model", "local_projectors"}
    assert set(variables.state) == {"global_projectors"}
    assert release_recording.constants(z)["lambda_float_gene"] == 5


def fake_checkout(folder):
    for name in live.NEEDED_FILES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


def test_errors_name_the_cause(tmp_path):
    with pytest.raises(ValueError, match=r"encoder.py does not exist"):
        live.record(tmp_path, {})
    checkout = fake_checkout(tmp_path)
    with pytest.raises(ValueError, match="Pass an interpreter"):
        live.record(checkout, {}, python=str(tmp_path / "python"))


def test_missing_packages_are_a_one_line_error(tmp_path):
    if importlib.util.find_spec("pytorch_grad_cam"):
        pytest.skip("grad-cam is installed here")
    with pytest.raises(ValueError, match="pip install .*grad-cam") as caught:
        live.record(fake_checkout(tmp_path), {"a": np.zeros(1)}, python=sys.executable)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_live_comparison():
    checkout = os.environ.get("FOF_RELEASE")
    if not checkout:
        pytest.skip("set FOF_RELEASE to a checkout of peterlipan/FoF")
    python = os.environ.get("FOF_RELEASE_PYTHON", sys.executable)
    rows, theirs = live.compare(checkout, inputs(5), python=python)
    assert [r for r in rows if not r.ok] == []
    ours = release_steps.per_step(theirs)["loss_total"]
    bound = release_tolerances.TOLERANCES["loss"]
    np.testing.assert_allclose(ours, theirs["steps/loss_total"], rtol=bound)
