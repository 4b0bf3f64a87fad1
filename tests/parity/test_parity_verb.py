"""The commands import, export and parity: exact round trips, one-line errors."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fof_jax import files
from fof_jax.cli import parity as parity_command
from fof_jax.cli.main import main
from fof_jax.methods.release import state_dict
from fof_jax.parity import comparison, live
from fof_jax.training import checkpoint, optimizer, weights
from fof_jax.training import state as training_state
from fof_jax.types import Variables

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def recorded():
    z = comparison.load(GOLDEN / "release_a.npz")
    return {k[5:]: a for k, a in z.items() if k.startswith("init/")}


def assert_equal(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def read_pth(path):
    torch = pytest.importorskip("torch")
    return {n: t.numpy() for n, t in torch.load(path, weights_only=True).items()}


def write_fold(folder, variables):
    """Writes a fold with the checkpoints of two steps with different parameters."""
    adamw = optimizer.adamw(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    for step, factor in ((1, 2), (2, 1)):
        params = jax.tree.map(lambda a, f=factor: a * f, variables.params)
        state = training_state.TrainState(
            step=np.int32(step),
            params=params,
            state=variables.state,
            opt_state=adamw.init(params),
        )
        checkpoints.save(state)
    checkpoints.close()
    return folder


def test_round_trip_of_weights(tmp_path, recorded, capsys):
    torch = pytest.importorskip("torch")
    variables = state_dict.from_state_dict(recorded)
    fold = write_fold(tmp_path / "fold_0", jax.tree.map(np.asarray, variables))
    # A fold to a file: the newest step, all tensors, exact.
    whole = tmp_path / "new" / "whole.pth"
    words = ["export", "--to=release", f"--checkpoint={fold}"]
    assert main([*words, "--whole", f"--out={whole}"]) == 0
    assert_equal(read_pth(whole), recorded)
    card = (tmp_path / "new/whole_model_card.md").read_text()
    assert "Research use only; not for diagnosis." in card
    step = ["export", "--to=release", f"--checkpoint={fold}/checkpoints/1"]
    assert main([*step, f"--out={tmp_path}/1.pth"]) == 0
    plain = state_dict.to_state_dict(variables, patch=4, model_only=True)
    assert_equal(read_pth(tmp_path / "1.pth"), {n: 2 * a for n, a in plain.items()})
    # The file to a folder, and the folder to a file.
    folder = tmp_path / "imported"
    words = ["import", "--from=release", str(whole), f"--out={folder}"]
    assert main(words) == 0
    restored = state_dict.to_state_dict(weights.read(folder), patch=4)
    assert_equal(restored, recorded)
    about = json.loads((folder / weights.ABOUT).read_text())
    assert about["encoder"] == {"depth": 3, "width": 32, "patch": 4, "tokens": 64}
    assert about["num_classes"] == 3
    again = ["export", "--to=release", f"--checkpoint={folder}", f"--out={whole}"]
    assert main([*again, "--whole"]) == 0
    assert_equal(read_pth(whole), recorded)
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    # The published form: the model only.
    torch.save({n: torch.from_numpy(np.array(a)) for n, a in plain.items()}, whole)
    assert main([*words[:-1], f"--out={tmp_path}/model"]) == 0
    read = weights.read(tmp_path / "model")
    assert read.state == {}
    assert_equal(state_dict.to_state_dict(read, patch=4, model_only=True), plain)


def test_incomplete_checkpoint_is_skipped(tmp_path, recorded, capsys):
    pytest.importorskip("torch")
    variables = jax.tree.map(np.asarray, state_dict.from_state_dict(recorded))
    fold = write_fold(tmp_path / "fold_0", variables)
    (fold / "checkpoints/2" / files.MANIFEST).unlink()
    words = ["export", "--to=release", f"--out={tmp_path}/x.pth"]
    assert main([*words, f"--checkpoint={fold}/checkpoints/2"]) == 2
    assert "was not finished" in capsys.readouterr().err
    assert main([*words, f"--checkpoint={fold}"]) == 0
    name = "global_classifier.bias"
    np.testing.assert_array_equal(
        read_pth(tmp_path / "x.pth")[name], 2 * recorded[f"model.{name}"]
    )


def test_export_of_other_models_is_an_error(tmp_path, capsys):
    weights.write(tmp_path / "w", Variables({"classifier": np.ones(3)}, {}), {})
    words = ["export", "--to=release", f"--out={tmp_path}/x.pth"]
    for folder, message in (
        (tmp_path / "w", "holds classifier, expected a model of the method 'release'"),
        (tmp_path, "holds no weights. Expected a fold"),
        (tmp_path / "none", "holds no weights"),
    ):
        assert main([*words, f"--checkpoint={folder}"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


def test_missing_torch_is_a_one_line_error(tmp_path, recorded, capsys, monkeypatch):
    variables = jax.tree.map(np.asarray, state_dict.from_state_dict(recorded))
    weights.write(tmp_path / "w", variables, {})
    monkeypatch.setitem(sys.modules, "torch", None)
    out = f"--out={tmp_path}/x"
    for words in (
        ["import", "--from=release", str(tmp_path / "a.pth"), out],
        ["export", "--to=release", f"--checkpoint={tmp_path}/w", out],
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert "needs PyTorch" in err
        assert len(err.splitlines()) == 1


# ---- parity --------------------------------------------------------------------------


def test_kind_of_recording_is_detected(monkeypatch):
    from fof_jax.parity import paper_replay, release_replay

    monkeypatch.setattr(paper_replay, "replay", lambda path: ["paper"])
    monkeypatch.setattr(release_replay, "replay", lambda path, **_: ["release"])
    for path in sorted(GOLDEN.glob("paper_*.npz")) + sorted(
        GOLDEN.glob("release_*.npz")
    ):
        assert parity_command.replay(path, others=[]) == [path.name.partition("_")[0]]


def test_ddp_recording_finds_its_case(tmp_path, monkeypatch):
    from fof_jax.parity import release_replay

    cases = []
    monkeypatch.setattr(
        release_replay, "replay_ddp", lambda z, case: cases.append(case) or []
    )
    name = "t0/cam/v1"
    release_replay.replay(GOLDEN / "release_ddp.npz")
    moved = tmp_path / "moved.npz"
    shutil.copy(GOLDEN / "release_ddp.npz", moved)
    with pytest.raises(ValueError, match=r"Put release_a.npz beside it, or pass"):
        release_replay.replay(moved, others=[moved, GOLDEN / "release_b.npz"])
    release_replay.replay(moved, others=[moved, GOLDEN / "release_a.npz"])
    expected = comparison.load(GOLDEN / "release_a.npz")[name]
    assert len(cases) == 2
    for case in cases:
        np.testing.assert_array_equal(case[name], expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Pass --golden=FILE.npz, or --release"),
        (["--release=nowhere"], "nowhere: models/encoder.py does not exist"),
        (["--release=nowhere", "--steps=0"], "--steps: got 0, expected 1 or more"),
        (
            ["--release=CHECKOUT", "--python=nowhere"],
            "nowhere does not exist. Pass an interpreter",
        ),
        (["--release=CHECKOUT", "--encoder=mu/7"], "do not divide"),
        (["--release=CHECKOUT", "--images=nowhere.png"], "nowhere.png"),
    ],
)
def test_live_errors_are_one_line(tmp_path, capsys, monkeypatch, words, message):
    for name in live.NEEDED_FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    small = ["--image_size=16", "--batch=2", "--steps=1"] if len(words) == 2 else []
    # Building the inputs takes a compilation, and they are not used here.
    monkeypatch.setattr(live, "inputs_from", lambda *_, **__: {"a": np.zeros(1)})
    words = [w.replace("CHECKOUT", str(tmp_path)) for w in words]
    assert main(["parity", *small, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_given_images_are_used(tmp_path, monkeypatch):
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (40, 40), (255, 0, 0)).save(path)
    images = parity_command._read_images([path], 16)
    red = (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(images[0, 3, 5], red, rtol=1e-5)
    from fof_jax.models import vit

    # The rest of the inputs takes a compilation and is tested elsewhere.
    monkeypatch.setattr(
        live, "inputs_from", lambda first, second, *_, **__: {"1": first, "2": second}
    )
    views = live.random_inputs(
        size=vit.Size(width=16, depth=2, heads=2, mlp=32),
        patch=8,
        image=16,
        batch=2,
        steps=2,
        images=images,
    )
    first, second = views["1"], views["2"]
    np.testing.assert_array_equal(first, np.broadcast_to(images[0], first.shape))
    assert first.shape == (2, 2, 16, 16, 3)
    assert np.abs(second - first).max() > 0.1
