"""Replays recordings of the paper's equations, and detects wrong equations.

`tests/golden/paper_*.npz` are from an independent float64 reference in PyTorch.
Tolerances: the table in `fof_jax/parity/paper_replay.py`.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.methods.paper import cam, losses, views
from fof_jax.parity import comparison, paper_replay
from fof_jax.parity.paper_recording import Recording
from fof_jax.types import Variables

GOLDEN = Path(__file__).parents[1] / "golden"


# Both have every quantity; the second has other sizes and weights.
@pytest.mark.parametrize(
    "name", ["paper_a", pytest.param("paper_b", marks=pytest.mark.slow)]
)
def test_every_quantity_is_within_tolerance(name):
    rows = paper_replay.replay(GOLDEN / f"{name}.npz")
    assert not [row for row in rows if not row.ok]
    kinds = {row.kind for row in rows}
    assert kinds == set(paper_replay.TOLERANCES)
    names = {row.quantity for row in rows}
    assert {"cam/A", "mask", "projections", "features/neg", "logits/pos"} <= names


def test_tolerances_are_not_loosened():
    assert paper_replay.TOLERANCES == {
        "array": 1e-5,
        "mask": 0.0,
        "gradient": 1e-4,
        "first loss": 1e-6,
        "losses": 3e-5,
        "rate": 1e-6,
        "parameters": 0.05,
        "well-conditioned parameters": 2e-6,
    }


def mean_instead_of_sum(*, tokens, gradient, grid):
    alpha = gradient.mean(axis=1)
    return alpha, jnp.maximum(jnp.einsum("bpd,bd->bp", tokens, alpha), 0).reshape(
        -1, *grid
    )


def wrong_total(*, cls, frl, mca, lambda_frl, lambda_mca):
    return cls + lambda_mca * frl + lambda_frl * 1.001 * mca


ORIGINAL = {
    "classification": losses.classification,
    "focus_consistency": losses.focus_consistency,
    "alignment": losses.alignment,
}


def no_background(*, background, **rest):
    return ORIGINAL["classification"](background=background - 1, **rest)


def swapped_negative(*, glb, pos, neg, tau):
    return ORIGINAL["focus_consistency"](glb=glb, pos=neg, neg=pos, tau=tau)


def normalized_positives(*, normalize_positives, **rest):
    return ORIGINAL["alignment"](normalize_positives=True, **rest)


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize(
    ("equation", "module", "name", "wrong"),
    [
        ("Eq. (1)", cam, "weighted_sum", mean_instead_of_sum),
        ("Eq. (1), P3", cam, "min_max", lambda A, valid: A),
        ("Eq. (2)", views, "keep_mask", lambda A, *, patch, theta: (
            views.patch_mean(A, patch=patch) > theta + 0.2)),
        ("Eq. (2), views", views, "split", lambda image, keep, *, patch, fill: (
            image, jnp.zeros_like(image))),
        ("Eq. (3)", losses, "classification", no_background),
        ("Eq. (4)", losses, "focus_consistency", swapped_negative),
        ("Eq. (5)", losses, "alignment", normalized_positives),
        ("Eq. (6)", losses, "total", wrong_total),
    ],
)  # fmt: skip
def test_wrong_equation_fails(monkeypatch, equation, module, name, wrong):
    del equation
    monkeypatch.setattr(module, name, wrong)
    recording = Recording(GOLDEN / "paper_a.npz")
    method = recording.method()
    variables = Variables(params=recording.params(method), state={})
    # Up to the first row that fails: the gradient is not compiled for an array.
    rows = paper_replay._first_step(recording, method, variables, recording.batch(0))
    assert any(not row.ok for row in rows)


def test_command_prints_one_row_per_quantity(tmp_path, capsys, monkeypatch):
    row = comparison.Row("cam/A", 1e-7, 2e-7, 1e-5, "array")
    monkeypatch.setattr(paper_replay, "replay", lambda path: [row])
    for name in "ab":
        np.savez(tmp_path / name, a=np.zeros(1))
    words = [f"--golden={tmp_path}/{name}.npz" for name in "ab"]
    assert main(["parity", *words]) == 0
    out = capsys.readouterr().out
    assert "a.npz: 1 of 1 quantities within tolerance" in out
    assert "b.npz: 1 of 1 quantities within tolerance" in out
    assert "cam/A" in out
    wrong = comparison.Row("mask", 1.0, 1.0, 0.0, "mask")
    monkeypatch.setattr(paper_replay, "replay", lambda path: [row, wrong])
    assert main(["parity", *words[:1]]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_nan_is_never_within_tolerance():
    row = paper_replay.compare("x", np.array([np.nan]), np.array([1.0]), "array", None)
    assert not row.ok


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"nonsense"), "cannot be read as an .npz"),
        (lambda path: np.savez(path, a=np.zeros(3)), "has no array 'cfg/"),
    ],
)
def test_other_files_are_errors(tmp_path, capsys, make, message):
    path = tmp_path / "x.npz"
    make(path)
    assert main(["parity", f"--golden={path}"]) == 2
    assert message in capsys.readouterr().err


def test_truncated_recording_is_an_error(tmp_path, capsys):
    content = (GOLDEN / "paper_a.npz").read_bytes()
    path = tmp_path / "x.npz"
    path.write_bytes(content[: len(content) // 2])
    assert main(["parity", f"--golden={path}"]) == 2
    assert "cannot be read" in capsys.readouterr().err
