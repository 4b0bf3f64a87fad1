"""Command `eval --table`: predictions and metrics on an external cohort."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli import config
from fof_jax.cli.main import main
from fof_jax.evaluation import operating_points
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import exported, model
from fof_jax.training import build
from fof_jax.types import Batch
from tests.support import initial


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An untrained ensemble: two folds with different random parameters."""
    settings = config.load(["--config=phantom", "--config.encoder=mu/16"])
    method = build.method_of(settings)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    batch = Batch(image=image)
    folds = {f"fold_{k}": initial.filled(method, batch, {}, seed=k) for k in range(2)}
    return model.TrainedModel(method, folds, settings, (64, 64))


@pytest.fixture(scope="module")
def file(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.fof"
    exported.write(path, models, card="# Card\n")
    return path


@pytest.fixture
def cohort(tmp_path):
    """Twelve images of six patients; one image is broken."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        pixels = rng.integers(0, 256, (64 + 8 * i, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append((f"{i}.png", f"P{i // 2}", ("II", "III", "IV")[i // 2 % 3], "x"))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:500])
    with (tmp_path / "t.csv").open("w") as file:
        csv.writer(file).writerows([("image", "patient", "grade", "site"), *rows])
    return tmp_path


def test_a_cohort_is_predicted_and_evaluated(file, models, cohort, capsys):
    words = ["eval", f"--table={cohort}/t.csv", f"--checkpoint={file}"]
    words += [f"--out={cohort}/out", "--specificity=0.9", "--specificity=0.75"]
    assert main(words) == 0
    text, warned = capsys.readouterr()
    assert "warning: 3.png" in warned
    table = read_predictions(cohort / "out/predictions.csv")
    assert table.image == tuple(f"{i}.png" for i in range(12))
    assert [i for i, ok in enumerate(table.ok) if not ok] == [3]
    some = [cohort / f"{i}.png" for i in (0, 7)]
    expected = models.predict(some).prob
    np.testing.assert_allclose(table.prob[[0, 7]], expected, atol=1e-5)
    assert table.y.tolist() == [0, 0, 1, 1, 2, 2] * 2

    with (cohort / "out/predictions.csv").open() as read:
        row = next(csv.DictReader(read))
    assert row["y"] == "II"
    assert row["pred"] in ("II", "III", "IV")
    assert float(row["p_III"]) == pytest.approx(expected[0, 1], abs=1e-5)
    about = json.loads((cohort / "out/about.json").read_text())
    assert (about["command"], about["images"]) == ("eval", 12)
    assert about["checkpoint_sha256"]

    results = json.loads((cohort / "out/eval.json").read_text())
    assert results["units"]["patient"]["n"] == 6
    assert results["failed"] == 1
    points = results["operating_points"]
    assert len(points) == 2 * 3 * 2  # units, classes, specificities
    assert [point["name"] for point in points[::2][:3]] == ["II", "III", "IV"]
    for point in points[:6]:  # of regions, counted directly
        y, p = table.y[table.ok], table.prob[table.ok][:, point["class"]]
        if point["threshold"] is not None:
            called = p >= point["threshold"]
            assert called[y == point["class"]].sum() == point["tp"]
            assert called[y != point["class"]].sum() == point["fp"]
        assert point["specificity"] >= point["wanted"]
    assert "Per patient: operating points" in text
    assert "pred III" in text

    assert main(words) == 2  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


def test_thresholds_are_stored_in_an_exported_file(file, models, cohort):
    words = [f"--table={cohort}/t.csv", f"--out={cohort}/out", "--specificity=0.9"]
    assert main(["eval", f"--checkpoint={file}", *words]) == 0
    points = operating_points.read(cohort / "out/eval.json")
    exported.write(cohort / "model.fof", models, thresholds=points, card="# Card\n")
    written = json.loads((cohort / "out/eval.json").read_text())["operating_points"]
    assert len(written) == 6
    assert fof_jax.load(cohort / "model.fof").about["thresholds"] == written
    with pytest.raises(ValueError, match="holds no operating points"):
        operating_points.read(cohort / "t.csv")


def test_invalid_arguments_and_tables_are_rejected(file, cohort, capsys):
    table = f"--table={cohort}/t.csv"
    assert main(["eval", table]) == 2
    assert "--checkpoint=RUN" in capsys.readouterr().err
    (cohort / "bad.csv").write_text("image,patient,grade\n0.png,P,V\n")
    words = [f"--checkpoint={file}", f"--out={cohort}/new"]
    assert main(["eval", f"--table={cohort}/bad.csv", *words]) == 2
    assert "the classes are II, III, IV" in capsys.readouterr().err
    assert not (cohort / "new").exists()
    assert main(["eval", "--predictions=p.csv", f"--checkpoint={file}"]) == 2
    assert "--checkpoint requires --table" in capsys.readouterr().err
