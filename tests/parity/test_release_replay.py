"""Replays recordings of the authors' code; tolerances in release_tolerances.py."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fof_jax.evaluation import metrics
from fof_jax.methods.release import state_dict
from fof_jax.parity import (
    comparison,
    release_recording,
    release_replay,
    release_tolerances,
    release_units,
)
from fof_jax.types import StepContext, Variables

GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = Path(
    os.environ.get("FOF_SHARED") or Path(__file__).parents[3] / "shared"
).expanduser()


def _assert_within_tolerance(rows: list[comparison.Row], at_least: int) -> None:
    assert len(rows) >= at_least
    assert [r for r in rows if not r.ok] == []


@pytest.mark.parametrize(
    "case", ["a", *(pytest.param(c, marks=pytest.mark.slow) for c in "bd")]
)
def test_case(case):
    _assert_within_tolerance(release_replay.replay(GOLDEN / f"release_{case}.npz"), 34)


@pytest.mark.slow
def test_case_on_real_images():
    # The recording has real images, which are not in this repository.
    path = SHARED / "golden" / "release_c.npz"
    if not path.is_file():
        pytest.skip(f"{path} does not exist; set FOF_SHARED")
    _assert_within_tolerance(release_replay.replay(path), 34)


@pytest.mark.slow  # case a has the same operations in whole steps
def test_units():
    rows = release_replay.replay(GOLDEN / "release_units.npz")
    _assert_within_tolerance(rows, 17)
    assert {r.quantity.split()[1] for r in rows} == set(release_units._CHECKS)


def test_units_metrics():
    scores = metrics.scores
    z = comparison.load(GOLDEN / "release_units.npz")
    only = {k: a for k, a in z.items() if k.startswith("metrics/")}
    _assert_within_tolerance(release_units.replay_units(only, scores=scores), 2)


@pytest.mark.slow
def test_two_processes():
    _assert_within_tolerance(release_replay.replay(GOLDEN / "release_ddp.npz"), 18)


def test_component_sign_is_aligned_with_the_recorded_one(monkeypatch):
    z = comparison.load(GOLDEN / "release_units.npz")
    only = {k: a for k, a in z.items() if k.startswith("campost/")}
    eigh, calls = jnp.linalg.eigh, []

    def negated(a):
        calls.append(a)
        values, vectors = eigh(a)
        return values, -vectors

    monkeypatch.setattr(jnp.linalg, "eigh", negated)
    _assert_within_tolerance(release_units.replay_units(only), 4)
    assert calls


def test_wrong_component_sign_is_detected():
    # The opposite sign keeps the other half of the image.
    z = comparison.load(GOLDEN / "release_units.npz")
    only = {k: a for k, a in z.items() if k.startswith("campost/0")}
    only["campost/0/projection"] = -only["campost/0/projection"]
    bad = {r.quantity for r in release_units.replay_units(only) if not r.ok}
    assert bad == {"units campost final_eigen"}


def test_wrong_values_are_detected():
    z = comparison.load(GOLDEN / "release_units.npz")
    only = {k: a for k, a in z.items() if k.startswith(("supcon/0", "cam2mask/0"))}
    only["supcon/0/loss"] = only["supcon/0/loss"] * np.float32(1.0001)
    only["cam2mask/0/mask"] = 1 - only["cam2mask/0/mask"]
    bad = {r.quantity for r in release_units.replay_units(only) if not r.ok}
    assert bad == {"units supcon loss", "units cam2mask"}


def test_nan_is_not_within_tolerance():
    nan = np.array([1.0, np.nan])
    assert not comparison.row("x", nan, np.ones(2), 1.0).ok
    rows = [comparison.row("x", a, np.ones(2), 1.0) for a in (np.ones(2), nan)]
    assert not comparison.worst(rows, "all").ok


def test_other_files_are_errors(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="not a recording"):
        release_replay.replay(tmp_path / "other.npz")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_gradient_does_not_depend_on_the_devices(devices):
    """Two emulated processes give the recorded gradient on one and on two devices."""
    z = comparison.load(GOLDEN / "release_ddp.npz")
    case = comparison.load(GOLDEN / "release_a.npz")
    with_sizes = z | {k: a for k, a in case.items() if k.startswith("cfg/")}
    method = release_recording.method_of(with_sizes, world_size_emulated=2)
    variables = release_recording.variables_of(with_sizes)

    def gradient(variables, rows):
        batch, reference = jax.tree.unflatten(structure, rows)

        def loss(params):
            return method.loss(
                variables.replace(params=params),
                batch,
                StepContext(
                    key=jax.random.key(0),
                    gather=lambda a: lax.all_gather(a, "device", tiled=True),
                ),
                reference=reference,
            )[0]

        value, gradient = jax.value_and_grad(loss)(variables.params)
        return value[None], lax.pmean(gradient, "device")

    rows = release_recording.batch_of(with_sizes, 0), jnp.asarray(case["t0/cam/v1"])
    # Passed as leaves, because the dataclasses' shape checks reject a device axis.
    leaves, structure = jax.tree.flatten(rows)
    leaves = [a.reshape(devices, -1, *a.shape[1:]) for a in leaves]
    step = jax.pmap(
        gradient,
        axis_name="device",
        in_axes=(None, 0),
        out_axes=(0, None),
        devices=jax.devices()[:devices],
    )
    values, gradients = step(variables, leaves)
    mean = z[
        "loss_total/world2/full"
    ].mean()  # the loss here has the global cross-entropy
    np.testing.assert_allclose(values, mean, rtol=3e-5)
    named = state_dict.to_state_dict(Variables(gradients, {}), patch=4)
    _assert_within_tolerance(
        release_tolerances.tensors(
            z,
            "grad_full/world2/",
            named,
            tolerance=release_tolerances.TOLERANCES["gradient"],
            scale_floor=release_tolerances.GRADIENT_FLOOR,
        ),
        66,
    )
