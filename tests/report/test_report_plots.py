"""Report of a trained fold: features, class activation maps, patch masks."""

import base64
import io
import json
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.data import prepare
from fof_jax.inference import visualization
from fof_jax.report import embedding, gallery, style
from fof_jax.report.fold_model import open_fold
from fof_jax.report.run import read_run
from fof_jax.types import Batch
from tests.support.run_files import write_run


def labels(values, known=None):
    values = np.array(values)
    known = np.ones(len(values), bool) if known is None else np.array(known)
    return embedding.Labels("a", values, known, {v: str(v) for v in values.tolist()})


def silhouette_by_loops(features, values):
    """Mean of (b - a) / max(a, b) over points; 0 for groups of one point."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    each = []
    for i, value in enumerate(values):
        mates = [j for j in range(len(values)) if values[j] == value and j != i]
        if not mates:
            each.append(0.0)
            continue
        a = np.mean([distance[i, j] for j in mates])
        others = set(values) - {value}
        b = min(np.mean([distance[i, j] for j in range(len(values))
                         if values[j] == o]) for o in others)  # fmt: skip
        each.append((b - a) / max(a, b))
    return np.mean(each)


def test_silhouette_agrees_with_loops_and_excludes_unknown_values():
    features = np.random.default_rng(0).normal(size=(12, 5))
    values = [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 5]
    known = [True] * 11 + [False]
    expected = silhouette_by_loops(features[:11], values[:11])
    result = embedding.silhouette(features, labels(values, known))
    assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("values", [[1, 1, 1], [0, 1, 2]])
def test_no_silhouette_of_one_group_or_of_single_points(values):
    assert embedding.silhouette(np.eye(3), labels(values)) is None


def test_masked_patches_are_gray_and_others_unchanged():
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    keep = np.array([[True, False], [False, True]])
    shown = visualization.masked(pixels, keep, patch=2)
    np.testing.assert_array_equal(shown[:2, :2], pixels[:2, :2])
    np.testing.assert_array_equal(shown[2:, 2:], pixels[2:, 2:])
    assert (shown[:2, 2:] == visualization.MASKED).all()


def test_the_overlay_is_brighter_where_the_map_is_higher():
    A = np.array([[0.0, 0.5], [0.75, 1.0]])
    shown = visualization.overlay(np.full((2, 2, 3), 100, np.uint8), A)
    light = shown.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(light.ravel()) > 0)


@pytest.mark.parametrize(
    ("side", "kind", "expected"), [(64, "png", 64), (900, "jpeg", 320)]
)
def test_embedded_images_are_downscaled(side, kind, expected):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    head, data = gallery.data_uri(pixels).split(",")
    assert head == f"data:image/{kind};base64"
    assert len(data) < 150_000
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (expected, expected)


@pytest.fixture(scope="module")
def trained(small_run, tmp_path_factory):
    """Folder of a run whose fold 1 alone is finished."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(small_run, folder / "run")
    shutil.rmtree(folder / "run/fold_0")
    (folder / "run/results.json").unlink()
    return folder


@pytest.mark.slow
def test_the_report_of_a_trained_fold(trained, capsys):
    run = trained / "run"
    assert main(["report", f"--workdir={run}", f"--versus={run}"]) == 0
    page = (run / "report.html").read_text()
    assert "1 of 2 folds are finished (fold 0 not started)" in page
    regions = page.split('<section id="regions"')[1].split("</section>")[0]
    assert regions.count("data:image/png") >= 3 * 2
    features = page.split('<section id="features"')[1].split("</section>")[0]
    config = json.loads((run / "config.json").read_text())["config"]
    for i, name in enumerate(["class", *config["data"]["biomarkers"]]):
        assert features.count(f'<figure id="tsne_{i}_{name}') == 2
        assert (run / f"figures/tsne_{i}_{name}_versus.pdf").exists()
    # A run compared with itself: equal silhouettes.
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', features)
    cells = [re.findall("<td>(.*?)</td>", row) for _, row in rows]
    assert all(row[:2] == row[2:] for row in cells)
    assert len(cells) == 1 + len(config["data"]["biomarkers"])
    for name in ("gallery", "tsne_all"):
        assert (run / f"figures/{name}.svg").exists()
        assert (run / f"figures/{name}.pdf").exists()


@pytest.mark.slow
def test_the_model_reproduces_the_predictions_of_the_fold(trained):
    run = read_run(trained / "run")
    opened = open_fold(run, None, lambda c: prepare.prepare(c, generate=False))
    assert opened.fold == 1
    tested = run.folds[1].predictions
    assert [opened.data.images[i] for i in opened.rows] == list(tested.image)
    assert opened.features().shape == (len(tested), 64)  # width of mu
    pixels = np.stack([opened.data.read(int(i), 64) for i in opened.rows])
    scaled = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    scaled = jnp.asarray(scaled, jnp.float32)
    (variables,) = opened.model.folds.values()
    out = jax.jit(opened.model.method.apply)(variables, Batch(image=scaled))
    exp = np.exp(np.asarray(out.logits, float))
    # The file has nine digits; another batch size changes the last ones.
    np.testing.assert_allclose(
        exp / exp.sum(axis=1, keepdims=True), tested.prob, atol=1e-5
    )
    # Features of the same model.
    np.testing.assert_allclose(opened.features(), out.features, atol=1e-4)


@pytest.mark.slow
def test_a_missing_store_is_reported_and_not_built(trained, tmp_path, monkeypatch):
    blank = b'<svg viewBox="0 0 1 1"></svg>'
    monkeypatch.setattr(style, "_render", lambda *_: blank)
    out = tmp_path / "page.html"
    words = ["report", f"--workdir={trained}/run", f"--out={out}"]
    assert main([*words, f"--data_dir={tmp_path}/none"]) == 0
    assert "has no phantom with these parameters" in out.read_text()
    assert not (tmp_path / "none").exists()


def test_a_store_of_another_table_is_rejected(tmp_path):
    workdir = write_run(tmp_path / "run", finished=1, history=False)
    (workdir / "fold_0/checkpoints").mkdir()
    store = types.SimpleNamespace(table_hash="1" * 64)
    with pytest.raises(ValueError, match="another table"):
        open_fold(read_run(workdir), None, lambda config: store)


def test_a_run_of_an_older_version_is_reported(tmp_path):
    workdir = write_run(tmp_path / "run", finished=1, history=False)
    (workdir / "fold_0/checkpoints").mkdir()

    def open_data(config):
        return config.data.field_of_tomorrow

    with pytest.raises(ValueError, match="no field .*tomorrow.*older version"):
        open_fold(read_run(workdir), None, open_data)
