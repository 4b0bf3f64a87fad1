"""Rows of a comparison and their tables: order, figures, differences, formats."""

import csv
import io
import json

import numpy as np
import pytest

from fof_jax.evaluation import comparison, comparison_tables, metrics, published
from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.comparison import Entry
from fof_jax.evaluation.predictions import Predictions, PredictionsError


def cells(seed, skill=1.0, folds=(0, 1), regions=30):
    """Cells of seed 42; regions are those of the fold, whatever the seed of the row."""
    rng = np.random.default_rng(seed)
    made = {}
    for fold in folds:
        y = np.repeat(np.arange(regions // 2) % 3, 2)
        score = rng.normal(size=(regions, 3))
        score[np.arange(regions), y] += skill
        made[42, fold] = Predictions(
            patient=tuple(f"{fold}-{i // 2}" for i in range(regions)),
            image=tuple(f"{fold}-{i}.png" for i in range(regions)),
            fold=np.full(regions, fold),
            y=y,
            prob=np.exp(score) / np.exp(score).sum(axis=1, keepdims=True),
            error=("",) * regions,
        )
    return made


@pytest.fixture(scope="module")
def made():
    """FoF, the baseline and DGKD; SP with one of two folds; a row of our own."""
    entries = [
        Entry("fof", "I", cells(0, 2.0), 2),
        Entry("vit", "I", cells(1, 0.1), 2),
        Entry("distill.sp", "I", cells(2, folds=(1,)), 2, "fold 0: it & failed"),
        Entry("release", "I", cells(3), 2),
        Entry("distill.dgkd", "II", cells(4), 2),
        Entry("distill.pkt", "I", {}, 2, "not finished"),
    ]
    return comparison.compare(
        entries,
        references=("fof", "vit"),
        replicates=200,
        conditions=["data of a test"],
    )


def test_rows_stand_in_the_papers_order_and_absent_ones_are_named(made):
    labels = {t: [r.label for r in made.rows if r.table == t] for t in ("I", "II")}
    published_i = [row.label for row in published.ROWS if row.table == "I"]
    assert labels["I"] == [*published_i, "authors' objective"]
    assert labels["II"][-2:] == ["DGKD", "FoF"]
    by_label = {row.label: row for row in made.rows}
    assert by_label["CLAT"].remark == "no config"
    assert by_label["CLAT"].paper == published.FIGURES["CLAT"]
    assert by_label["PKT"].remark == "not finished"
    assert by_label["authors' objective"].paper is None
    assert [row.name for row in made.finished()][:2] == ["vit", "distill.sp"]


def test_scores_are_those_of_the_summary(made):
    own = cells(0, 2.0)
    expected = [metrics.scores(t.y, t.prob, average="micro") for t in own.values()]
    row = next(row for row in made.rows if row.name == "fof")
    for metric in ("auc", "ap", "accuracy", "kappa"):
        values = [one[metric] for one in expected]
        score = row.scores[metric]
        assert score.mean == pytest.approx(np.mean(values), abs=1e-12)
        assert score.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert score.low < score.mean < score.high
        assert row.per_cell[42, 1][metric] == pytest.approx(values[1], abs=1e-12)


def test_differences_are_of_common_cells_and_to_both_references(made):
    by_name = {row.name: row for row in made.rows}
    assert set(by_name["fof"].differences) == {"vit"}
    of_sp = by_name["distill.sp"].differences["fof"]["auc"]
    fold_1 = by_name["fof"].per_cell[42, 1]["auc"]
    own = by_name["distill.sp"].per_cell[42, 1]["auc"]
    assert of_sp.cells == 1
    assert of_sp.value == pytest.approx(own - fold_1, abs=1e-12)
    assert by_name["vit"].differences["fof"]["auc"].p_holm <= 0.05
    p = [r.differences["fof"]["auc"] for r in made.finished() if r.name != "fof"]
    smallest = min(p, key=lambda one: one.p)
    assert smallest.p_holm == pytest.approx(min(1, len(p) * smallest.p))


def test_text_states_figures_differences_and_conditions(made):
    text = comparison_tables.text(made)
    for piece in (
        "Table I: the image alone at test",
        "Table II: image and omics at test",
        "94.17 ± 0.68",
        "Difference to FoF in points",
        "Difference to Baseline in points",
        "Holm's correction for 4 comparisons",
        "- PathCNN, PathGCN, SwinV2-Tiny, KL div, ",
        "- SP: fold 0: it & failed",
        "- data of a test",
        "60 test regions of 30 patients",
        "The paper's figures mix two protocols",
    ):
        assert piece in text
    sp = next(line for line in text.splitlines() if line.startswith("SP "))
    assert sp.split("|")[1].strip() == "1 of 2"
    score = next(r for r in made.rows if r.name == "distill.sp").scores["auc"]
    assert sp.split("|")[2].strip() == f"{100 * score.mean:.2f}"  # one cell: no std


def test_csv_and_json_hold_the_same_numbers(made):
    lines = list(csv.DictReader(io.StringIO(comparison_tables.as_csv(made))))
    document = json.loads(comparison_tables.as_json(made))
    assert len(lines) == len(document["rows"]) == len(made.rows)
    for line, row in zip(lines, document["rows"], strict=True):
        assert (line["method"], line["row"]) == (row["method"], row["row"])
        if row["scores"]:
            mean = row["scores"]["auc"]["mean"]
            assert float(line["auc_mean"]) == pytest.approx(100 * mean, abs=1e-4)
            found = row["differences"].get("fof")
            if found:
                p = found["kappa"]["p_holm"]
                assert float(line["kappa_minus_fof_p_holm"]) == pytest.approx(p)
        else:
            assert line["auc_mean"] == ""
    fof = next(row for row in document["rows"] if row["row"] == "fof")
    assert [cell["fold"] for cell in fof["cells"]] == [0, 1]
    assert fof["paper_percent"]["kappa"] == [69.05, 2.24]


def test_latex_has_whole_rows(made):
    text = comparison_tables.latex(made)
    assert text.count("\\begin{tabular}{lcccccccc}") == 2
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    body = [row for row in rows if "$\\pm$" in row]
    assert all(row.count(" & ") == 8 for row in body)
    assert len(body) == 25  # 24 of the paper and the release
    baseline = next(row for row in body if row.startswith("Baseline"))
    assert "$^\\dagger$" in baseline
    assert "90.37 $\\pm$ 0.82" in baseline
    assert all(line.startswith("%") for line in text.splitlines() if "data of" in line)


def test_the_same_predictions_give_the_same_bytes(made):
    entries = [
        Entry(r.name, "I", cells(i), 2)
        for i, r in enumerate(r for r in made.finished() if r.name != "distill.sp")
    ]
    texts = [
        comparison_tables.as_json(
            comparison.compare(entries, references=("fof",), replicates=50)
        )
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_rows_of_other_regions_are_refused():
    other = {(42, 0): cells(1)[42, 1]}
    entries = [Entry("fof", "I", cells(0), 2), Entry("vit", "I", other, 2)]
    with pytest.raises(PredictionsError, match="fold 0 of vit and of fof"):
        comparison.compare(entries, references=("fof",), replicates=10)


def test_nothing_finished_is_a_table_of_the_papers_figures():
    made = comparison.compare(
        [Entry("fof", "I", {}, 5, "not finished")], references=("fof",), replicates=10
    )
    assert made.finished() == ()
    text = comparison_tables.text(made)
    assert "0 of 5" in text
    assert "Difference" not in text


def test_patients_are_scored_by_the_mean_of_their_regions():
    entries = [Entry("fof", "I", cells(0), 2), Entry("vit", "I", cells(1), 2)]
    made = comparison.compare(
        entries, references=("fof",), unit="patient", replicates=20
    )
    assert made.counts == (30, 30)
    table = by_patient(cells(0)[42, 0])
    expected = metrics.scores(table.y, table.prob, average="micro")["auc"]
    row = next(row for row in made.rows if row.name == "fof")
    assert row.per_cell[42, 0]["auc"] == pytest.approx(expected, abs=1e-12)
    assert "left out" not in " ".join(made.conditions)


def test_patients_that_cannot_be_scored_are_counted():
    """A patient whose regions have two grades is not scored."""
    tables = cells(0)
    tables[42, 1].y[1] = 2  # of patient 1-0, whose other region is of grade 0
    made = comparison.compare(
        [Entry("fof", "I", tables, 2)], references=(), unit="patient", replicates=20
    )
    assert made.counts == (29, 29)
    assert made.conditions[-1].startswith("1 of 30 patients are left out")
