"""Command `eval`: printed tables and JSON of one run's predictions."""

import json

import numpy as np
import pytest

from fof_jax.cli import eval
from fof_jax.cli.main import main
from fof_jax.evaluation.metrics import summarize
from fof_jax.evaluation.predictions import Predictions, write_predictions


def fold(path, number, *, seed=0, n=18):
    rng = np.random.default_rng([seed, number])
    rows = Predictions(
        patient=tuple(f"f{number}-{i // 2}" for i in range(n)),
        image=tuple(f"f{number}-{i}.png" for i in range(n)),
        fold=np.full(n, number),
        y=np.repeat(np.arange(n // 2) % 3, 2),
        prob=rng.dirichlet(np.ones(3), n),
        error=("",) * n,
    )
    write_predictions(path, rows)
    return rows


def test_eval_prints_all_tables_and_writes_all_metrics(tmp_path, capsys):
    paths = [tmp_path / f"fold_{k}.csv" for k in range(3)]
    rows = [fold(path, k) for k, path in enumerate(paths)]
    out = tmp_path / "new" / "eval.json"
    code = eval.evaluate(
        predictions=paths, scheme="patient", paper_row="FoF w/o FRL", out=out
    )
    assert code == 0
    text = capsys.readouterr().out
    for unit in ("region", "patient"):
        for average in ("micro", "macro"):
            assert f"Per {unit}, {average}\npatient split, 3 folds" in text
        assert f"Per {unit}: confusion" in text
    assert "in both training and test" not in text
    assert text.count("FoF w/o FRL (paper, Table I)") == 4
    written = json.loads(out.read_text())
    one = summarize(rows[1])["units"]["region"]["macro"]["mean"]["auc"]
    macro = written["units"]["region"]["macro"]
    assert macro["folds"]["1"]["auc"] == pytest.approx(one, abs=1e-8)
    assert f"{100 * macro['mean']['auc']:.2f} ± {100 * macro['std']['auc']:.2f}" in text
    assert written["scheme"] == "patient"
    confusion = np.array(written["units"]["region"]["confusion"])
    assert confusion.sum() == 54
    line = next(row for row in text.splitlines() if row.startswith("class 1"))
    counts = [int(cell) for cell in line.split("|")[1:4]]
    assert counts == confusion[1].tolist()


def test_eval_with_maximum_aggregation(tmp_path, capsys):
    path = tmp_path / "p.csv"
    fold(path, 0, n=60)
    texts = {}
    for aggregate in ("mean", "max"):
        eval.evaluate(predictions=[path], aggregate=aggregate)
        texts[aggregate] = capsys.readouterr().out
        assert f"({aggregate} of probabilities over its images)" in texts[aggregate]
        assert "split unit unknown" in texts[aggregate]
    mean, most = (t.split("Per patient, micro")[0] for t in texts.values())
    assert mean == most  # regions do not change
    rows = [t.split("Per patient, micro")[1].splitlines()[3] for t in texts.values()]
    assert rows[0] != rows[1]


def test_tables_of_a_split_over_regions_have_a_note(tmp_path, capsys):
    fold(tmp_path / "p.csv", 0)
    assert eval.evaluate(predictions=[tmp_path / "p.csv"], scheme="roi") == 0
    blocks = [b for b in capsys.readouterr().out.split("\n\n") if " | " in b]
    assert len(blocks) == 6
    for block in blocks:
        assert "split by region: patients are in both training and test" in block


def test_eval_reports_excluded_rows(tmp_path, capsys):
    path = tmp_path / "p.csv"
    path.write_text(
        "patient,image,fold,y,pred,p_0,p_1,entropy,error\n"
        "a,1,,0,0,0.9,0.1,,\n"
        "a,2,,1,1,0.1,0.9,,\n"
        "b,3,,0,0,0.8,0.2,,\n"
        "c,4,,1,,,,,is not an image\n"
    )
    assert eval.evaluate(predictions=[path]) == 0
    text = capsys.readouterr().out
    assert "1 of 4 rows have an error" in text
    assert "1 patient(s) with two grades left out of patient metrics: a." in text
    assert "fold -, per patient: only class 0 occurs" in text
    assert "none" in text
    assert "nan" not in text.lower().replace("name", "")


def test_classes_have_the_names_of_the_run(tmp_path, capsys):
    """Training's tables number the classes; model.json beside them names them."""
    fold(tmp_path / "fold_0/predictions.csv", 0)
    config = {"config": {"data": {"classes": ["II", "III", "IV"]}}}
    (tmp_path / "fold_0/model.json").write_text(json.dumps(config))
    words = ["eval", f"--predictions={tmp_path}/fold_0/predictions.csv"]
    assert main([*words, f"--out={tmp_path}/eval.json"]) == 0
    text = capsys.readouterr().out
    assert "truth" in text
    assert "pred IV" in text
    assert "class 2" not in text
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["names"] == ["II", "III", "IV"]


def test_a_table_of_somebody_else_is_evaluated(tmp_path, capsys):
    path = tmp_path / "p.csv"
    path.write_text("y,p_low,p_high\nlow,0.9,0.1\nhigh,0.2,0.8\nhigh,0.6,0.4\n")
    words = ["eval", f"--predictions={path}", f"--out={tmp_path}/eval.json"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "pred high" in text
    assert "no row has a patient" in text
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["names"] == ["low", "high"]
    region = written["units"]["region"]
    assert region["confusion"] == [[1, 0], [1, 1]]
    assert region["micro"]["mean"]["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": []}, "got no predictions"),
        ({"paper_row": "CLAT++"}, "no row 'CLAT\\+\\+'"),
        ({"out": "folder"}, "is a folder; expected a file"),
        ({"predictions": ["gone.csv"]}, "gone.csv cannot be read"),
    ],
)
def test_eval_rejects_invalid_input_before_writing(tmp_path, capsys, options, message):
    fold(tmp_path / "p.csv", 0)
    (tmp_path / "folder").mkdir()
    arguments = {"predictions": ["p.csv"], "out": "out.json"} | options
    arguments["predictions"] = [tmp_path / name for name in arguments["predictions"]]
    arguments["out"] = tmp_path / arguments["out"]
    with pytest.raises(ValueError, match=message):
        eval.evaluate(**arguments)
    assert not (tmp_path / "out.json").exists()
    assert capsys.readouterr().out == ""
