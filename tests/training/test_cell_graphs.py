"""PathGCN trained on graphs of a store: refused without, predicted alike, resumed."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fof_jax
from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.data import column_statistics
from fof_jax.data.graphs import record
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.methods import encoder
from fof_jax.training import cell_graphs, weights
from fof_jax.types import Variables
from tests.support import initial, pt_files
from tests.support.cohort_files import CLASSES, rows_of, write_table

pytest.importorskip("skimage", reason="the extra graphs is not installed")
ROOT = Path(__file__).parents[2]
N, SIDE = 12, 128


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """--config arguments of a cohort of drawn nuclei, whose size is the grade."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pathgcn")
    (root / "img").mkdir()
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = rows_of(N)
    for i, row in enumerate(rows):
        rng = np.random.default_rng(i)
        inside = np.zeros((SIDE, SIDE), bool)
        for k in range(16):
            cy, cx = 16 + 32 * np.array(divmod(k, 4)) + rng.uniform(-4, 4, 2)
            radius = 5.5 + 2 * CLASSES.index(row["grade"])
            inside |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        color = np.where(inside[..., None], (70, 40, 120), (235, 190, 215))
        noisy = color + rng.integers(-9, 10, (SIDE, SIDE, 3))
        Image.fromarray(noisy.astype(np.uint8)).save(root / row["image"])
    made = [
        f"--config={ROOT}/configs/comparison.py:cohort-pathgcn",
        f"--config.data.dir={root / 'data'}",
        f"--config.data.table={write_table(root, rows)}",
        "--config.data.biomarkers=('idh','EGFR')",
        f"--config.data.image_size={SIDE}",
        "--config.folds=2",
        "--config.batch_size=4",
        "--config.epochs=3",
        "--config.pathgcn.width=8",
        "--config.pathgcn.bucket=32",
        "--config.cpu_devices=1",
    ]
    assert main(["data", "build", *made]) == 0
    return made


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "pathgcn"
    assert main([*words, f"--workdir={workdir}"]) == 2  # without graphs
    assert main(["data", "graphs", *words]) == 0
    assert main([*words, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.mark.slow  # two trained folds
def test_training_without_graphs_names_the_command(words, tmp_path, capsys, run):
    config = config_flag.load(words)
    (graphs,) = Path(config.data.dir).glob("cohort/store/*/graphs")
    moved = graphs.rename(graphs.parent / "moved")
    try:
        assert main([*words, f"--workdir={tmp_path}/x"]) == 2
        assert "Build them: python launch.py data graphs" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
    finally:
        moved.rename(graphs)


@pytest.mark.slow  # two trained folds
def test_the_image_alone_gets_the_probabilities_of_the_test(run, words):
    images = Path(config_flag.load(words).data.table).parent
    table = read_predictions(run / "fold_1" / "predictions.csv")
    model = fof_jax.load(run / "fold_1")
    again = model.predict([images / name for name in table.image])
    np.testing.assert_allclose(again.prob, table.prob, atol=1e-5)
    assert model.features([images / table.image[0]]).shape == (1, 1, 32)
    with pytest.raises(ValueError, match="reads cell graphs of regions"):
        model.fold_probabilities(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    blank = np.full((SIDE, SIDE, 3), 240, np.uint8)
    with pytest.raises(ValueError, match="no nucleus"):
        model.predict(blank)


@pytest.mark.slow  # two trained folds
def test_a_large_image_is_predicted_by_tiles_without_the_empty_ones(run, words):
    from PIL import Image

    folder = Path(config_flag.load(words).data.table).parent / "img"
    region = np.array(Image.open(folder / "000.png"))
    model = fof_jax.load(run)
    wide = np.full((SIDE, 4 * SIDE, 3), 240, np.uint8)
    wide[:, :SIDE] = region
    made = model.preprocess(wide)
    assert len(made.graphs) == len(made.tiles) == len(made.corners) < 5
    assert "tiles have no nucleus" in made.warning
    assert np.isfinite(model.predict(wide).prob).all()


@pytest.mark.slow  # two trained folds
def test_model_json_keeps_the_statistics_and_how_graphs_were_made(run):
    document = json.loads((run / "fold_0" / "model.json").read_text())["graphs"]
    assert document["origin"]["kind"] == "builder"
    assert len(document["names"]) == len(document["mean"]) == 12
    fields = json.loads((run / "config.json").read_text())["fields"]
    assert len(fields["graph_hash"]) == 16


@pytest.mark.slow  # two trained folds
def test_a_run_does_not_resume_with_other_graphs(run, words, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    changed = json.loads((copy / "config.json").read_text())
    changed["fields"]["graph_hash"] = "0" * 16
    (copy / "config.json").write_text(json.dumps(changed))
    assert main([*words, f"--workdir={copy}"]) == 2
    assert "graph_hash: '0000000000000000' there" in capsys.readouterr().err


@pytest.mark.slow  # two trained folds
def test_data_check_counts_regions_with_few_nuclei(run, words, capsys):
    assert main(["data", "check", *words]) == 0
    assert "0.0% (0) have fewer than 10 nuclei" in capsys.readouterr().out


def _with_columns(words, count, *more):
    """Words of a shorter run on graphs of so many columns."""
    changed = ["--config.epochs=1", "--config.fold=0", *more]
    return [*words, f"--config.pathgcn.columns={count}", *changed]


@pytest.mark.slow  # one trained fold
def test_published_pt_files_train_by_the_verb(words, tmp_path, capsys):
    store = tmp_path / "data"
    shutil.copytree(config_flag.load(words).data.dir, store)
    folder = tmp_path / "pt"
    folder.mkdir()
    for i in range(N):
        rng = np.random.default_rng(i)
        near = np.arange(9) % 8
        attributes = {
            "x": pt_files.tensor("10", rng.uniform(size=(8, 1036)).astype(np.float32)),
            "edge_index": pt_files.tensor("11", np.stack([near[:-1], near[1:]])),
            "centroid": pt_files.tensor("12", rng.integers(0, SIDE, (8, 2))),
            "__num_nodes__": 8,
        }
        with pt_files.torch_names() as modules:
            written = pt_files.file_of(attributes, modules)
        (folder / f"{i:03}.pt").write_bytes(written)
    own = _with_columns(words, 1036, f"--config.data.dir={store}")
    assert main(["data", "graphs", *own, f"--pt={folder}"]) == 0
    assert "1036 columns" in capsys.readouterr().out
    assert main([*own, f"--workdir={tmp_path}/run"]) == 0
    assert len(read_predictions(tmp_path / "run/fold_0/predictions.csv").y) == N // 2
    with pytest.raises(ValueError, match=r"\.pt"):  # no builder for new images
        fof_jax.load(tmp_path / "run/fold_0").predict(
            np.full((SIDE, SIDE, 3), 99, np.uint8)
        )


@pytest.mark.slow  # one trained fold
def test_tokens_of_an_encoder_train_and_predict_by_the_verb(words, tmp_path, capsys):
    store = tmp_path / "data"
    shutil.copytree(config_flag.load(words).data.dir, store)
    config = config_flag.load(words).copy_and_resolve_references()
    config.encoder = "mu/16"
    network = encoder.build_vit(config)
    pixels = jnp.zeros((1, SIDE, SIDE, 3))
    params = initial.of_module(network, pixels)["params"]
    side = SIDE // 16
    about = {"encoder": {"variant": "mu/16", "class_token": False, "grid": [side] * 2}}
    weights.write(
        tmp_path / "weights", Variables(params={"encoder": params}, state={}), about
    )
    width = network.size.width
    own = _with_columns(
        words,
        12 + width,
        f"--config.data.dir={store}",
        "--config.encoder=mu/16",
        f"--config.pathgcn.tokens={tmp_path}/weights",
    )
    assert main(["data", "graphs", *own]) == 0
    assert f"{12 + width} columns" in capsys.readouterr().out
    assert main([*own, f"--workdir={tmp_path}/run"]) == 0
    table = read_predictions(tmp_path / "run/fold_0/predictions.csv")
    images = Path(config.data.table).parent
    model = fof_jax.load(tmp_path / "run/fold_0")
    again = model.predict([images / name for name in table.image])
    np.testing.assert_allclose(again.prob, table.prob, atol=1e-5)


def test_statistics_are_those_of_the_training_nodes_alone():
    rng = np.random.default_rng(0)
    made = [
        record.create(
            rng.normal(3, 2, (n, 2)), np.zeros((2, 0), int), np.zeros((n, 2)), "ab"
        )
        for n in (4, 0, 7, 5)
    ]
    graphs = GraphFolder(
        *(Path("none"), ("a", "b"), {}, ("",) * 4),
        nodes=np.array([4, 0, 7, 5]),
        edges=np.zeros(4, int),
        _graphs=dict(enumerate(made)),
    )
    found = cell_graphs.fold_constants(graphs, np.array([0, 1, 2]))["columns"]
    nodes = np.concatenate([made[0].x, made[2].x])
    np.testing.assert_allclose(found["mean"], nodes.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["std"], nodes.std(0), rtol=1e-5)
    with pytest.raises(ValueError, match="no row"):
        column_statistics.measure([made[1].x])
