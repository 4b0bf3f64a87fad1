"""The rule of abstention in `predict`, an exported file and the web page.

The rule answers one of two images: its margin lies between theirs.
"""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.evaluation import abstention
from fof_jax.inference.serve import results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run / "fold_0")


@pytest.fixture(scope="module")
def images(small_pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, region in zip("ab", list(small_pictures.values()), strict=False):
        Image.fromarray(region ^ 1).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def rules(model, images, tmp_path_factory):
    """A file of `eval`; the margin is between those of the images."""
    prob = model.predict([images / "a.png", images / "b.png"]).prob
    between = float(abstention.margins(prob).mean())
    one = abstention.Rule(
        unit="region",
        classes=model.classes,
        thresholds=(0.0, 0.0, 0.0),
        margin=between,
        error=0.1,
        coverage=0.5,
        risk=0.0,
        risk_upper=0.5,
        rows=2,
        answered=1,
    )
    patient = dataclasses.replace(one, unit="patient", margin=2.0)
    path = tmp_path_factory.mktemp("rules") / "eval.json"
    path.write_text(json.dumps({"abstention": abstention.to_json([one, patient])}))
    return path


@pytest.fixture(scope="module")
def expected(model, images, rules):
    """Whether a.png and b.png are not answered."""
    prob = model.predict([images / "a.png", images / "b.png"]).prob
    between = abstention.read(rules)["region"].margin
    found = (abstention.margins(prob) < between).tolist()
    assert sorted(found) == [False, True]
    return found


def predict(checkpoint, images, out, *more):
    words = [f"--checkpoint={checkpoint}", f"--images={images}", f"--out={out}"]
    assert main(["predict", *words, "--no_pictures", *more]) == 0
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (out / "patients.csv").open() as file:
        return rows, list(csv.DictReader(file))


def test_predict_has_a_column(small_run, images, rules, expected, tmp_path):
    """A row with an error has no answer; the patients' rule answers none."""
    fold = small_run / "fold_0"
    rows, patients = predict(fold, images, tmp_path / "out", f"--abstain={rules}")
    assert [row["abstain"] for row in rows] == [*(str(int(e)) for e in expected), ""]
    assert {row["abstain"] for row in patients if row["pred"]} == {"1"}
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert abstention.from_json(about["abstention"]) == abstention.read(rules)


@pytest.mark.slow
def test_an_exported_model_abstains_by_itself(
    small_run, images, rules, expected, tmp_path
):
    """In `predict`, and in the example, which has none of this package."""
    fold, path = small_run / "fold_0", tmp_path / "m.fof"
    words = ["--to=stablehlo", f"--checkpoint={fold}", f"--out={path}"]
    assert main(["export", *words, f"--abstain={rules}"]) == 0
    rows, _ = predict(path, images, tmp_path / "out")
    assert [row["abstain"] for row in rows] == [*(str(int(e)) for e in expected), ""]
    command = [sys.executable, ROOT / "examples/exported_model.py", path]
    told = subprocess.run(
        [*command, images / "a.png", images / "b.png"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [line.endswith("abstain") for line in told[:2]] == expected


def test_the_page_says_so(model, images, rules, expected):
    rule = abstention.read(rules)["region"]
    for name, abstains in zip("ab", expected, strict=True):
        body = (images / f"{name}.png").read_bytes()
        result = results.grade_image(model, body, None, 10**6, rule)
        assert result["abstain"] is abstains
    assert results.grade_image(model, body, None, 10**6)["abstain"] is None


def test_a_rule_of_other_classes_is_refused(small_run, images, rules, tmp_path, capsys):
    values = json.loads(rules.read_text())
    for one in values["abstention"]:
        one["classes"] = ["x", "y", "z"]
    (tmp_path / "other.json").write_text(json.dumps(values))
    words = [f"--checkpoint={small_run / 'fold_0'}", f"--images={images / 'a.png'}"]
    flag = f"--abstain={tmp_path / 'other.json'}"
    assert main(["predict", *words, flag, f"--out={tmp_path / 'out'}"]) == 2
    assert "classes x, y, z" in capsys.readouterr().err
    assert not np.any([*tmp_path.glob("out/*.csv")])
