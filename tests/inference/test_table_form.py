"""Tables that a model reads may have the column names and words of its run's table."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli import config
from fof_jax.cli.main import main
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import bags, exported, inputs, model
from fof_jax.inference.table_form import TableForm
from fof_jax.training import build
from fof_jax.types import Batch
from tests.support import initial

FORM = TableForm(
    columns={"image": "File", "patient": "Case", "grade": "WHO", "fold": "fold"},
    words=("lost=1", "retained=0", "n.d.="),
)


@pytest.fixture
def table(tmp_path):
    """Six images of three cases; grades and one marker in a laboratory's words."""
    rows = [("File", "Case", "WHO", "image", "codel")]
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        word = ("lost", "Retained", "n.d.")[i % 3]
        rows.append((f"{i}.png", f"C{i // 2}", ("II", "III")[i // 2 % 2], "x", word))
    with (tmp_path / "t.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "t.csv"


def test_images_are_found_by_the_names_of_the_run(table):
    images = inputs.find(table, form=FORM)
    assert [one.name for one in images] == [f"{i}.png" for i in range(6)]
    assert [one.patient for one in images] == ["C0", "C0", "C1", "C1", "C2", "C2"]
    assert [one.grade for one in images] == ["II", "II", "III", "III", "II", "II"]
    vectors = [
        one.omics for one in inputs.with_omics(images, table, ["codel"], "scnn", FORM)
    ]
    assert vectors[:2] == [(1.0,), (0.0,)]
    assert math.isnan(vectors[2][0])


def test_standard_names_are_read_where_the_runs_are_missing(table):
    text = table.read_text().splitlines()
    text[0] = "image,patient,grade,other,codel"
    table.write_text("\n".join(text))
    images = inputs.find(table, form=FORM)
    assert [one.patient for one in images] == ["C0", "C0", "C1", "C1", "C2", "C2"]


def test_a_table_without_either_name_is_refused(table):
    table.write_text(table.read_text().replace("File", "Slide").replace("image", "x"))
    with pytest.raises(ValueError, match="'image' is missing"):
        inputs.find(table, form=FORM)


def test_bags_are_found_by_the_names_of_the_run(tmp_path):
    (tmp_path / "t.csv").write_text("File,Case\na.h5,C0\n")
    (bag,) = bags.find(tmp_path / "t.csv", form=FORM)
    assert (bag.name, bag.patient) == ("a.h5", "C0")


def test_eval_and_predict_read_the_runs_own_table(table, tmp_path):
    settings = config.load(
        [
            "--config=cohort",
            "--config.encoder=mu/16",
            "--config.data.image_size=64",
            "--config.data.classes=('II', 'III')",
            "--config.data.biomarkers=('codel',)",
            "--config.data.columns.image=File",
            "--config.data.columns.patient=Case",
            "--config.data.columns.grade=WHO",
        ]
    )
    method = build.method_of(settings)
    batch = Batch(image=np.zeros((1, 64, 64, 3), np.uint8))
    trained = model.TrainedModel(
        method, {"fold_0": initial.filled(method, batch, {})}, settings, (64, 64)
    )
    path = tmp_path / "model.fof"
    exported.write(path, trained, card="# Card\n")
    flags = [f"--table={table}", f"--checkpoint={path}"]
    assert main(["predict", *flags, "--no_pictures", f"--out={tmp_path}/p"]) == 0
    assert main(["eval", *flags, f"--out={tmp_path}/e"]) == 0
    one, other = (read_predictions(tmp_path / n / "predictions.csv") for n in "pe")
    assert (
        list(one.patient)
        == list(other.patient)
        == ["C0", "C0", "C1", "C1"] + (["C2", "C2"])
    )
    np.testing.assert_allclose(one.prob, other.prob, atol=1e-6)
