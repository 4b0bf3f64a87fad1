"""Comparison of finished runs, its files and its page."""

import csv
import json
import re

import pytest

from fof_jax.cli.main import main
from fof_jax.evaluation import comparison, comparison_tables
from fof_jax.report.comparison import build, runs
from tests.support.run_files import write_run

COST = {
    "parameters": 275140,
    "test_parameters": 250564,
    "test_gflop_per_image": 0.0036,
    "test_images_per_s": 4077.8,
    "step_gflop": 0.31,
    "step_s": 0.055,
    "step_bytes": 20023240,
    "peak_bytes": 573526016,
    "batch_size": 8,
    "needs_at_test": ["image", "omics"],
    "device": "cpu",
    "load": 9.1,
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Three runs of one split; the last one with a fold unfinished."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / name, seed=seed, finished=finished)
        for seed, (name, finished) in enumerate({"a": 3, "b": 3, "c": 2}.items())
    ]


def test_runs_are_compared_with_the_first(workdirs):
    made = runs.compare(workdirs, replicates=100)
    assert made.references == ("a",)
    assert [row.label for row in made.rows] == ["a", "b", "c"]
    assert made.rows[2].remark == "fold 2 at step 20 of 40"
    assert made.rows[2].differences["a"]["auc"].cells == 2
    assert made.rows[1].differences["a"]["auc"].cells == 3
    text = comparison_tables.text(made)
    assert "paper" not in text.replace("as in the paper", "")
    assert "b: fof, phantom, encoder mu/8, 8 epochs, batch 6, seed 42" in text


def test_the_verb_prints_and_writes_them(workdirs, tmp_path, capsys):
    words = ["compare", "--runs", *map(str, workdirs), "--replicates=50"]
    assert main([*words, f"--out={tmp_path}/x"]) == 0
    out = capsys.readouterr().out
    assert "Difference to a in points" in out
    written = {path.name for path in (tmp_path / "x").iterdir()}
    formats = ("txt", "csv", "tex", "json", "html")
    assert written == {"figures", *(f"comparison.{suffix}" for suffix in formats)}
    assert (tmp_path / "x/comparison.txt").read_text() in out
    assert main([*words, "--unit=patient"]) == 0
    assert "metrics per patient" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "roi", "each": 28}, "the train regions of fold 0 differ"),
        ({"folds": 2, "finished": 2}, "they have 3 and 2 folds"),
        ({"finished": 0}, "has no finished fold"),
        ({"classes": ("a", "b", "c")}, "their classes differ"),
    ],
)
def test_runs_of_other_folds_or_data_are_refused(
    workdirs, tmp_path, capsys, change, message
):
    other = write_run(tmp_path / "other", **change)
    assert main(["compare", "--runs", str(workdirs[0]), str(other)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("field", ["table_hash", "data_hash"])
def test_runs_of_other_hashes_are_refused(tmp_path, capsys, field):
    made = [write_run(tmp_path / name) for name in ("a", "b")]
    for i, run in enumerate(made):
        document = json.loads((run / "config.json").read_text())
        document["fields"][field] = f"{i}" * 64
        (run / "config.json").write_text(json.dumps(document))
    assert main(["compare", "--runs", *map(str, made)]) == 2
    err = capsys.readouterr().err
    assert "a and b cannot be compared: their" in err
    assert "differ (hash" in err


def test_runs_with_and_without_validation_are_refused(tmp_path, capsys):
    made = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    for run in made[1:]:
        document = json.loads((run / "config.json").read_text())
        document["config"] |= {"validation": 0.1, "validation_metric": "auc"}
        (run / "config.json").write_text(json.dumps(document))
    assert main(["compare", "--runs", *map(str, made)]) == 2
    err = capsys.readouterr().err
    assert "a and b cannot be compared: their training patients differ (valid" in err
    assert "validation=0 and 0.1" in err
    assert main(["compare", "--runs", *map(str, made[1:])]) == 0
    assert "best epoch by auc on validation=0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "x"], "names 1 run; expected two or more"),
        (["--runs", "x", "y", "--dry_run"], "leave out --config"),
        ([], "pass --workdir=FOLDER"),
        (["--workdir=x"], "no config"),
        (["--runs", "x", "y", "--replicates=0"], "--replicates is 0"),
        (["--workdir=x", "--folds=a"], "'a' is not numbers with commas"),
        (["--workdir=x", "--config=phantom"], "has no tables DATA and ROWS"),
        (["--workdir=x", "--config=comparison:vit"], "'vit' of comparison.py is no"),
        (["--workdir=x", "--config=comparison:phantom-vit"], "Rows go to --rows"),
    ],
)
def test_flags_that_do_not_fit_are_refused(words, message, capsys):
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_page_is_self_contained_and_has_every_part(workdirs, tmp_path):
    made = runs.compare(workdirs, replicates=50)
    costs = {"a": COST, "b": COST | {"step_gflop": None}}
    cells = {"a": ["seed 42, fold 0: finished, 12 s"], "b": []}
    build.write(tmp_path, made, costs=costs, cells=cells)
    html = (tmp_path / "comparison.html").read_text()
    for piece in (
        "275,140", "image and omics", "Accuracy of each row", "finished, 12 s",
        "c: fold 2 at step 20 of 40", "Filled: differs from a",
    ):  # fmt: skip
        assert piece in html
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert html.count("<svg") == 4
    text = (tmp_path / "cost.csv").read_text()
    lines = list(csv.DictReader(text.splitlines()))
    assert [line["method"] for line in lines] == ["a", "b"]
    assert float(lines[0]["step_s"]) == 0.055
    assert lines[0]["needs_at_test"] == "image omics"
    assert lines[1]["step_gflop"] == ""
    # What was measured of time is on the page and in the cost's files alone.
    assert "12 s" not in (tmp_path / "comparison.json").read_text()


def test_the_page_of_rows_that_are_all_unfinished(tmp_path):
    made = comparison.compare(
        [comparison.Entry("fof", "I", {}, 5, "not finished")],
        references=("fof",),
        replicates=10,
    )
    build.write(tmp_path, made)
    html = (tmp_path / "comparison.html").read_text()
    assert "Table II" in html
    assert "not finished" in html
    assert "<svg" not in html
