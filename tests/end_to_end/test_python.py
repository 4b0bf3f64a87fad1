"""The package from Python: training in a few lines, predictions as DataFrames.

The references are the files of the command-line run of the same config, and the CSV.
"""

import io
import json
import re

import numpy as np
import pytest

import fof_jax
from fof_jax.cli import config
from fof_jax.evaluation.predictions import UNKNOWN, Predictions, as_csv
from fof_jax.inference.outputs import GradePredictions
from tests.support import small_runs

TABLE = Predictions(
    patient=("a", "b", "c"),
    image=("a.png", "b.png", "c.png"),
    fold=np.array([0, 1, UNKNOWN]),
    y=np.array([0, UNKNOWN, 1]),
    prob=np.array([[0.75, 0.25], [0.5, 0.5], [np.nan, np.nan]]),
    error=("", "", "cannot be read"),
)


@pytest.mark.slow  # one more run
def test_training_from_python_equals_the_command(small_folder, tmp_path):
    fields = dict(
        word.removeprefix("--config.").split("=")
        for word in small_runs.WORDS["small"][1:]
    )
    fields["data.dir"] = str(small_folder / "data")
    results = fof_jax.train("phantom", tmp_path / "run", fields)
    expected = json.loads((small_folder / "run/results.json").read_text())
    assert json.loads(json.dumps(results)) == expected
    for name in ("results.json", "fold_1/predictions.csv"):
        ours, theirs = tmp_path / "run" / name, small_folder / "run" / name
        assert ours.read_bytes() == theirs.read_bytes()
    assert len(fof_jax.load(tmp_path / "run").fold_names) == 2


def test_the_lines_of_the_documentation_name_results_that_exist(small_run):
    page = (small_runs.ROOT / "docs/predict.md").read_text()
    results = json.loads((small_run / "results.json").read_text())
    shown = next(line for line in page.splitlines() if line.startswith("print(results"))
    keys = re.findall(r"""\["(\w+)"\]""", shown)
    for key in keys:
        results = results[key]
    assert len(keys) == 5
    assert 0 <= results <= 1


def test_fields_need_the_name_of_a_config(tmp_path):
    loaded = config.load(["--config=phantom"])
    with pytest.raises(ValueError, match="expected fields only with the name"):
        fof_jax.train(loaded, tmp_path, {"epochs": 1})
    with pytest.raises(ValueError, match="epoch"):
        fof_jax.train("phantom", tmp_path, {"epochz": 1})


@pytest.mark.slow  # beside the other tests that require an extra
@pytest.mark.parametrize("classes", [None, ("II", "IV")])
def test_dataframe_of_predictions_is_the_csv(classes):
    pandas = pytest.importorskip("pandas", reason="the extra `dataframe` is missing")
    table = Predictions(**{**vars(TABLE), "classes": classes})
    expected = pandas.read_csv(io.StringIO(as_csv(table)), dtype={"error": str})
    frame = table.to_dataframe()
    if classes:  # the CSV has the index beside the name
        expected = expected.drop(columns="pred_index")
    expected["error"] = expected["error"].fillna("")
    # 9 digits in the CSV.
    pandas.testing.assert_frame_equal(frame, expected, check_dtype=False, rtol=1e-8)


@pytest.mark.slow
def test_dataframe_of_grades():
    pytest.importorskip("pandas", reason="the extra `dataframe` is missing")
    grades = GradePredictions(
        prob=TABLE.prob,
        spread=np.zeros((3, 2)),
        classes=("II", "IV"),
        error=TABLE.error,
        warning=("", "small", ""),
    )
    frame = grades.to_dataframe(TABLE.image)
    columns = "image pred p_II p_IV error warning s_II s_IV".split()
    assert list(frame.columns) == columns
    assert list(frame["pred"]) == ["II", "II", ""]
    np.testing.assert_equal(frame[["p_II", "p_IV"]].to_numpy(), TABLE.prob)
    with pytest.raises(ValueError, match="2 names for 3 images"):
        grades.to_dataframe(["a", "b"])


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"fof-jax\[dataframe\]"):
        TABLE.to_dataframe()
