"""A cohort from elsewhere, and operating points against cases counted by hand."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.operating_points import at_specificity
from fof_jax.predictions import read_predictions

# Ten rows without the class, four with it. By hand, at p >= t:
#   t = 0.9: 1 of 4 found, 0 of 10 wrong; 0.7: 2 of 4, 1 of 10 (0.8);
#   0.5: 3 of 4, 2 of 10 (0.8, 0.6); 0.2: 4 of 4, 4 of 10 (0.8, 0.6, 0.4, 0.3).
YES = [0.9, 0.7, 0.5, 0.2]
NO = [0.8, 0.6, 0.4, 0.3, 0.15, 0.1, 0.1, 0.05, 0.0, 0.0]


@pytest.mark.parametrize(
    ("wanted", "threshold", "tp", "fp"),
    [
        (0.95, 0.9, 1, 0),
        (0.9, 0.7, 2, 1),  # one of ten is 1 - 0.9, whatever its rounding
        (0.85, 0.7, 2, 1),
        (0.8, 0.5, 3, 2),
        (0.6, 0.2, 4, 4),
        (0.3, 0.2, 4, 4),  # all found: no more false calls than that takes
    ],
)
def test_points_are_those_counted_by_hand(wanted, threshold, tp, fp):
    positive = np.array([True] * 4 + [False] * 10)
    order = np.random.default_rng(0).permutation(14)
    point = at_specificity(positive[order], np.array(YES + NO)[order], wanted)
    assert point == {
        "threshold": threshold,
        "sensitivity": tp / 4,
        "specificity": pytest.approx(1 - fp / 10),
        "tp": tp,
        "fn": 4 - tp,
        "tn": 10 - fp,
        "fp": fp,
    }


def test_a_tie_is_called_on_both_sides():
    point = at_specificity(np.array([True, False]), np.array([0.5, 0.5]), 0.9)
    assert (point["threshold"], point["tp"], point["tn"]) == (None, 0, 1)


def test_a_class_that_does_not_occur_has_no_point():
    point = at_specificity(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]), 0.9)
    assert set(point.values()) == {None}
    with pytest.raises(ValueError, match="between 0 and 1"):
        at_specificity(np.array([True, False]), np.array([0.1, 0.2]), 90.0)


FLAGS = [
    "--config=phantom",
    "--config.data.regions=18",
    "--config.folds=2",
    "--config.epochs=1",
    "--config.batch_size=4",
    "--config.encoder=mu/16",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    at = tmp_path_factory.mktemp("run")
    data = tmp_path_factory.mktemp("data")
    words = [*FLAGS, "--config.fold=0"]
    assert main([*words, f"--config.data.dir={data}", f"--workdir={at}"]) == 0
    return at


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


def test_a_cohort_is_graded_and_scored(workdir, cohort, capsys):
    words = ["eval", f"--table={cohort}/t.csv", f"--checkpoint={workdir}"]
    words += [f"--out={cohort}/out", "--specificity=0.9", "--specificity=0.75"]
    assert main(words) == 0
    text, warned = capsys.readouterr()
    assert "warning: 3.png" in warned
    table = read_predictions(cohort / "out/predictions.csv")
    assert table.image == tuple(f"{i}.png" for i in range(12))
    assert [i for i, ok in enumerate(table.ok) if not ok] == [3]
    model = fof_jax.load(workdir)
    some = [cohort / f"{i}.png" for i in (0, 7)]
    expected = model.predict(some).prob
    np.testing.assert_allclose(table.prob[[0, 7]], expected, atol=1e-5)
    assert table.y.tolist() == [0, 0, 1, 1, 2, 2] * 2

    results = json.loads((cohort / "out/eval.json").read_text())
    assert results["units"]["patient"]["n"] == 6
    assert results["failed"] == 1
    points = results["operating_points"]
    assert len(points) == 2 * 3 * 2  # units, classes, specificities
    for point in points[:6]:  # of regions, counted again without our code
        y, p = table.y[table.ok], table.prob[table.ok][:, point["class"]]
        if point["threshold"] is not None:
            called = p >= point["threshold"]
            assert called[y == point["class"]].sum() == point["tp"]
            assert called[y != point["class"]].sum() == point["fp"]
        assert point["specificity"] >= point["wanted"]
    assert "Per patient: operating points" in text
    assert "pred III" in text

    assert main(words) == 2  # nothing is written over
    assert "exists already" in capsys.readouterr().err


def test_thresholds_travel_in_an_exported_file(workdir, cohort):
    words = [f"--table={cohort}/t.csv", f"--out={cohort}/out", "--specificity=0.9"]
    assert main(["eval", f"--checkpoint={workdir}", *words]) == 0
    file = cohort / "model.fof"
    words = ["export", "--to=stablehlo", f"--checkpoint={workdir}", f"--out={file}"]
    assert main([*words, f"--thresholds={cohort}/out/eval.json"]) == 0
    written = json.loads((cohort / "out/eval.json").read_text())["operating_points"]
    assert fof_jax.load(file).about["thresholds"] == written
    words = [f"--table={cohort}/t.csv", f"--checkpoint={file}", f"--out={cohort}/b"]
    assert main(["eval", *words]) == 0
    one, other = (
        read_predictions(cohort / folder / "predictions.csv") for folder in ("out", "b")
    )
    np.testing.assert_allclose(other.prob[other.ok], one.prob[one.ok], atol=1e-5)


def test_what_does_not_fit_is_refused(workdir, cohort, tmp_path, capsys):
    table = f"--table={cohort}/t.csv"
    assert main(["eval", table]) == 2
    assert "--checkpoint=RUN" in capsys.readouterr().err
    (cohort / "bad.csv").write_text("image,patient,grade\n0.png,P,V\n")
    words = [f"--checkpoint={workdir}", f"--out={cohort}/new"]
    assert main(["eval", f"--table={cohort}/bad.csv", *words]) == 2
    assert "the classes are II, III, IV" in capsys.readouterr().err
    assert not (cohort / "new").exists()
    assert main(["eval", "--predictions=p.csv", f"--checkpoint={workdir}"]) == 2
    assert "--table alone" in capsys.readouterr().err
