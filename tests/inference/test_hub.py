"""The hub: push and hf: addresses against a stand-in of its HTTP interface.

No network is used. The reference of a pushed model is the run that it was exported
from; of the front matter, huggingface_hub's own reader of model cards.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import hub
from tests.support import hub_server

REPO = "hf:lab/phantom"


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("huggingface_hub", reason="the extra `hub` is missing")


@pytest.fixture
def server(library, monkeypatch, tmp_path):
    with hub_server.started() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        cache = str(tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
        yield started
    library.close_session()


@pytest.mark.slow
def test_a_pushed_model_is_loaded_by_its_address(
    small_run, small_pictures, server, library, tmp_path, capsys, monkeypatch
):
    words = ["export", "--to=stablehlo", f"--checkpoint={small_run}"]
    words += [f"--out={tmp_path}/model.fof", f"--push={REPO}", "--license=mit"]
    assert main(words) == 0
    assert f"{server.address}/lab/phantom/commit/" in capsys.readouterr().out
    assert set(server.repos["lab/phantom"]) == {"model.fof", "README.md"}
    assert set(server.tokens) == {"Bearer hf_of_the_test"}

    card = library.ModelCard(server.repos["lab/phantom"]["README.md"].decode())
    results = json.loads((small_run / "results.json").read_text())
    assert card.data.license == "mit"
    assert card.data.library_name == "fof-jax"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy", "roc_auc"]
    values = {e.metric_name: e.metric_value for e in card.data.eval_results}
    for unit in ("region", "patient"):
        mean = results["units"][unit]["micro"]["mean"]
        assert values[f"micro accuracy per {unit}"] == mean["accuracy"]
        assert values[f"micro AUC per {unit}"] == mean["auc"]

    # The card's own snippet, in a folder with an image a.png.
    pixels = next(iter(small_pictures.values()))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", card.text, re.S)[1], names)
    expected = fof_jax.load(small_run).predict(["a.png"]).prob
    actual = names["model"].predict(["a.png"]).prob
    np.testing.assert_allclose(actual, expected, atol=1e-5)  # as of exported files

    graded = tmp_path / "graded"
    words = ["predict", f"--checkpoint={REPO}@main/model.fof", "--images=a.png"]
    assert main([*words, f"--out={graded}"]) == 0
    assert (graded / "predictions.csv").exists()


@pytest.mark.slow
def test_what_the_hub_does_not_have(server, capsys, tmp_path):
    words = ["predict", "--checkpoint=hf:lab/none", f"--images={tmp_path}"]
    assert main([*words, f"--out={tmp_path}/out"]) == 2
    assert "hf:lab/none: the hub gave no answer or refused" in capsys.readouterr().err
    server.repos["lab/some"] = {"README.md": b"text"}
    with pytest.raises(ValueError, match=r"lab/some has no fold_0"):
        hub.local("hf:lab/some/fold_0")
    server.repos["lab/two"] = {"a.fof": b"1", "b.fof": b"2"}
    with pytest.raises(ValueError, match=r"expected one exported file.*two/a\.fof"):
        hub.local("hf:lab/two")


@pytest.mark.parametrize("address", ["hf:", "hf:name", "hf:a/b/../../c", "hf:a/b@"])
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match="is no address of the hub"):
        hub.local(address)


def test_messages_before_anything_is_written(tmp_path, capsys):
    words = ["export", f"--checkpoint={tmp_path}", f"--out={tmp_path}/x"]
    assert main([*words, "--to=release", f"--push={REPO}"]) == 2
    assert "--push requires --to=stablehlo or --to=hf" in capsys.readouterr().err
    assert main([*words, "--to=hf", "--push=lab/phantom"]) == 2
    assert "is no address of the hub" in capsys.readouterr().err
    assert main([*words, "--to=stablehlo", f"--push={REPO}"]) == 2
    assert "expected a name that ends in .fof" in capsys.readouterr().err
    assert main(["focus", "--checkpoint=hf:lab/phantom"]) == 2
    assert "Pass --out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"fof-jax\[hub\]"):
        hub.local(REPO)
