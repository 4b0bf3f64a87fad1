"""State dicts of the authors' code: both ways, exact, and refused where odd."""

from pathlib import Path

import jax
import numpy as np
import pytest

from fof_jax.methods.release import state_dict
from fof_jax.parity import comparison, release_recording
from fof_jax.types import Batch

GOLDEN = Path(__file__).parents[2] / "golden" / "release_b.npz"


@pytest.fixture(scope="module")
def z():
    return comparison.load(GOLDEN)


@pytest.fixture(scope="module")
def theirs(z):
    return {k[5:]: a for k, a in z.items() if k.startswith("init/")}


def _same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_there_and_back_is_exact(theirs):
    _same(state_dict.to_state_dict(state_dict.from_state_dict(theirs), patch=4), theirs)


def test_tree_is_the_one_that_init_draws(z, theirs):
    ours = state_dict.from_state_dict(theirs)
    method, batch = release_recording.method_of(z), release_recording.batch_of(z, 0)
    drawn = jax.eval_shape(method.init, jax.random.key(0), batch, {})
    shape = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert shape(ours) == shape(drawn)


def test_plain_and_parallel_names(theirs):
    ours = state_dict.from_state_dict(theirs)
    plain = state_dict.to_state_dict(ours, patch=4, model_only=True)
    assert "vit.layernorm.weight" in plain
    assert not [n for n in plain if "projector" in n]
    for prefix in ("", "module."):
        named = {prefix + n: a for n, a in plain.items()}
        read = state_dict.from_state_dict(named)
        assert set(read.params) == {"model"}
        assert read.state == {}
        _same(state_dict.to_state_dict(read, patch=4, model_only=True), plain)


def test_model_alone_predicts(z, theirs):
    method = release_recording.method_of(z)
    image = release_recording.batch_of(z, 0).image
    whole = state_dict.from_state_dict(theirs)
    alone = state_dict.from_state_dict(
        state_dict.to_state_dict(whole, patch=4, model_only=True)
    )
    predict = jax.jit(lambda v, x: method.apply(v, Batch(image=x)).logits)
    np.testing.assert_array_equal(predict(whole, image), predict(alone, image))
    np.testing.assert_allclose(
        predict(whole, image), z["t0/logits_global/glb"], atol=1e-6
    )


def test_missing_and_odd_tensors_are_named(theirs):
    less = {n: a for n, a in theirs.items() if "global_classifier.bias" not in n}
    with pytest.raises(ValueError, match="global_classifier.bias"):
        state_dict.from_state_dict(less)
    with pytest.raises(ValueError, match="pooler"):
        state_dict.from_state_dict(theirs | {"model.vit.pooler.bias": np.zeros(3)})


def test_pth_there_and_back(tmp_path, theirs):
    torch = pytest.importorskip("torch")
    path = tmp_path / "fold_0.pth"
    ours = state_dict.from_state_dict(theirs)
    state_dict.export_pth(path, ours, patch=4)
    assert [p.name for p in tmp_path.iterdir()] == ["fold_0.pth"]
    read = torch.load(path, weights_only=True)
    plain = state_dict.to_state_dict(ours, patch=4, model_only=True)
    _same({n: t.numpy() for n, t in read.items()}, plain)
    back = state_dict.to_state_dict(
        state_dict.import_pth(path), patch=4, model_only=True
    )
    _same(back, plain)
    state_dict.export_pth(path, ours, patch=4, model_only=False)
    _same(state_dict.to_state_dict(state_dict.import_pth(path), patch=4), theirs)
    torch.save({"state_dict": read, "epoch": 3}, path)
    assert set(state_dict.import_pth(path).params) == {"model"}


class _Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_pth_that_is_none_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        state_dict.import_pth("absent.pth")
    Path("text.pth").write_text("hello")
    with pytest.raises(ValueError, match="not a PyTorch file"):
        state_dict.import_pth("text.pth")
    torch.save({"a": _Harmful()}, "harmful.pth")
    with pytest.raises(ValueError, match="not a PyTorch file"):
        state_dict.import_pth("harmful.pth")
    assert not Path("harm").exists()
    torch.save([1, 2], "list.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        state_dict.import_pth("list.pth")
