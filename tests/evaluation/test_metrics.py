"""Metrics: reference values, hand-computed cases and plain loops."""

import dataclasses
import json

import numpy as np
import pytest

from fof_jax.evaluation.aggregation import by_patient
from fof_jax.evaluation.metrics import scores, summarize
from fof_jax.evaluation.predictions import (
    Predictions,
    join,
    read_predictions,
    write_predictions,
)
from fof_jax.evaluation.published import FIGURES, ROWS
from fof_jax.evaluation.tables import format_table

# Reference values in float64, for five rows of three classes.
REFERENCE_P = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.3, 0.4, 0.3],
        [0.2, 0.2, 0.6],
        [0.5, 0.3, 0.2],
        [0.1, 0.3, 0.6],
    ]
)
REFERENCE_Y = np.array([0, 1, 2, 1, 2])
REFERENCE = {
    "auc": 0.93,
    "ap": 0.8711111111111112,
    "accuracy": 0.8,
    "kappa": 0.7058823529411765,
}


def auc_by_pairs(truth, score):
    """Fraction of (positive, negative) pairs in order; ties count as half."""
    wins = [(p > n) + 0.5 * (p == n) for p in score[truth] for n in score[~truth]]
    return sum(wins) / len(wins)


def ap_by_steps(truth, score):
    """Sum over thresholds of the recall step times precision."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        called = score >= threshold
        recall = (truth & called).sum() / truth.sum()
        total += (recall - before) * (truth & called).sum() / called.sum()
        before = recall
    return total


def kappa_by_counts(y, pred, classes):
    n = len(y)
    agree = sum(a == b for a, b in zip(y, pred, strict=True)) / n
    chance = sum((y == k).sum() * (pred == k).sum() for k in range(classes)) / n**2
    return (agree - chance) / (1 - chance)


def random_rows(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(classes), n).round(2)  # rounding creates ties
    return rng.integers(0, classes, n), prob / prob.sum(axis=1, keepdims=True)


def table(y, prob, *, patient=None, fold=None, error=None, image=None):
    n = len(y)
    return Predictions(
        patient=tuple(patient or (f"p{i}" for i in range(n))),
        image=tuple(image or (f"{i}.png" for i in range(n))),
        fold=np.asarray([0] * n if fold is None else fold),
        y=np.asarray(y),
        prob=np.asarray(prob, np.float64),
        error=tuple(error or [""] * n),
    )


# --- scores -----------------------------------------------------------------------


def test_micro_scores_match_reference_values():
    result = scores(REFERENCE_Y, REFERENCE_P, average="micro")
    for name, value in REFERENCE.items():
        assert result[name] == pytest.approx(value, abs=1e-12)
    assert result["f1"] == pytest.approx(0.8)
    assert result["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert result["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert result["notes"] == []


def test_macro_by_hand():
    result = scores(REFERENCE_Y, REFERENCE_P, average="macro")
    # Class 0: 0.7 over the four others. Class 1: 0.4 and 0.3 against 0.2 0.2 0.3:
    # 3 + 2.5 of 6 pairs. Class 2: both 0.6 over all.
    assert result["auc_per_class"] == pytest.approx([1.0, 5.5 / 6, 1.0])
    assert result["auc"] == pytest.approx((1 + 5.5 / 6 + 1) / 3)
    # Class 1: recall 1/2 at precision 1, then 2/2 at precision 2/3.
    assert result["ap"] == pytest.approx((1 + (0.5 + 0.5 * 2 / 3) + 1) / 3)
    # F1: class 0 is 2/3 (one false), class 1 is 2/3 (one missed), class 2 is 1.
    assert result["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert result["accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_match_plain_loops(classes):
    y, prob = random_rows(60, classes)
    onehot = np.arange(classes)[None] == y[:, None]
    micro = scores(y, prob, average="micro")
    macro = scores(y, prob, average="macro")
    assert micro["auc"] == pytest.approx(auc_by_pairs(onehot.ravel(), prob.ravel()))
    assert micro["ap"] == pytest.approx(ap_by_steps(onehot.ravel(), prob.ravel()))
    each = [auc_by_pairs(onehot[:, k], prob[:, k]) for k in range(classes)]
    assert macro["auc"] == pytest.approx(np.mean(each))
    assert macro["auc_per_class"] == pytest.approx(each)
    each = [ap_by_steps(onehot[:, k], prob[:, k]) for k in range(classes)]
    assert macro["ap"] == pytest.approx(np.mean(each))
    pred = prob.argmax(axis=1)
    assert micro["accuracy"] == pytest.approx((pred == y).mean())
    assert micro["kappa"] == pytest.approx(kappa_by_counts(y, pred, classes))


def test_absent_class_keeps_its_column_and_is_noted():
    y, prob = random_rows(40, 3)
    y = np.where(y == 1, 2, y)
    onehot = np.arange(3)[None] == y[:, None]
    micro = scores(y, prob, average="micro")
    assert micro["auc"] == pytest.approx(auc_by_pairs(onehot.ravel(), prob.ravel()))
    macro = scores(y, prob, average="macro")
    each = [auc_by_pairs(onehot[:, k], prob[:, k]) for k in (0, 2)]
    assert macro["auc"] == pytest.approx(np.mean(each))
    assert macro["auc_per_class"][1] is None
    assert np.shape(macro["confusion"]) == (3, 3)
    assert "1 do not occur" in macro["notes"][0]


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_one_class_alone_has_no_auc(average):
    _, prob = random_rows(6, 3)
    result = scores(np.full(6, 2), prob, average=average)
    assert result["auc"] is None
    assert result["ap"] is None
    assert result["auc_per_class"] == [None] * 3
    assert result["accuracy"] == pytest.approx((prob.argmax(axis=1) == 2).mean())
    assert (
        "only class 2 occurs (6 rows): AUC and AP are undefined" in result["notes"][0]
    )
    same = scores(np.array([2]), np.array([[0.1, 0.2, 0.7]]), average=average)
    assert same["kappa"] is None
    assert same["accuracy"] == 1.0
    assert any("kappa is undefined" in note for note in same["notes"])


@pytest.mark.parametrize(
    ("y", "prob", "average", "message"),
    [
        (REFERENCE_Y, REFERENCE_P, "weighted", "average is 'weighted'"),
        (REFERENCE_Y[:4], REFERENCE_P, "micro", "4 labels"),
        (REFERENCE_Y[:0], REFERENCE_P[:0], "micro", "0 labels"),
        (REFERENCE_Y + 1, REFERENCE_P, "micro", "labels 1 … 3 and 3 columns"),
        (REFERENCE_Y - 1, REFERENCE_P, "macro", "labels -1 … 1"),
        (REFERENCE_Y, REFERENCE_P * np.nan, "macro", "15 values of them not finite"),
    ],
)
def test_scores_reject_invalid_arguments(y, prob, average, message):
    with pytest.raises(ValueError, match=message) as caught:
        scores.__wrapped__(y, prob, average=average)
    assert "expected" in str(caught.value)


# --- patients ---------------------------------------------------------------------


def test_patients_are_means_or_maxima_of_their_images():
    prob = [[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.5, 0.5]]
    images = table([1, 1, 0, 0], prob, patient=["a", "a", "b", "a"], fold=[0, 0, 0, 1])
    images = dataclasses.replace(images, y=np.array([1, 1, 0, 1]))
    mean = by_patient(images)
    assert mean.patient == ("a", "b", "a")
    assert mean.fold.tolist() == [0, 0, 1]
    assert mean.y.tolist() == [1, 0, 1]
    np.testing.assert_allclose(mean.prob, [[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    maxima = by_patient(images, aggregate="max")
    np.testing.assert_allclose(maxima.prob, [[0.6, 0.8], [0.9, 0.1], [0.5, 0.5]])
    assert maxima.pred.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="expected 'mean' or 'max'"):
        by_patient.__wrapped__(images, aggregate="median")


def test_ambiguous_patients_unnamed_images_and_errors_are_left_out_and_noted():
    prob = np.array([[0.6, 0.4]] * 5 + [[np.nan, np.nan]])
    images = table(
        [0, 1, 0, 1, 0, 1],
        prob,
        patient=["q1", "q1", "b", "", "c", "c"],
        error=[""] * 5 + ["cannot be read"],
    )
    images = dataclasses.replace(images, y=np.array([0, 1, 0, 1, -1, 1]))
    result = by_patient(images)
    assert result.patient == ("b", "c")
    assert result.y.tolist() == [0, 1]  # c's grade is known from its unreadable image
    assert any("1 patient(s) with two grades" in n and "q1" in n for n in result.notes)
    assert any("1 image(s) without a patient" in note for note in result.notes)


# --- summary ----------------------------------------------------------------------


def cross_validation(folds=5, n=24):
    y, prob = random_rows(folds * n, 3)
    for i in range(0, len(y), 2):
        y[i + 1] = y[i]  # two images a patient
    names = [f"p{i // 2}" for i in range(len(y))]
    return table(y, prob, patient=names, fold=np.repeat(np.arange(folds), n))


def test_summary_is_mean_and_sample_std_over_folds():
    rows = cross_validation()
    result = summarize(rows)
    assert result["folds"] == ["0", "1", "2", "3", "4"]
    patients = by_patient(rows)
    for unit, data in (("region", rows), ("patient", patients)):
        for average in ("micro", "macro"):
            each = []
            for k in range(5):
                at = data.fold == k
                each.append(scores(data.y[at], data.prob[at], average=average))
            got = result["units"][unit][average]
            for metric in ("auc", "ap", "accuracy", "kappa", "f1"):
                values = np.array([one[metric] for one in each])
                std = np.sqrt(((values - values.mean()) ** 2).sum() / 4)
                assert got["mean"][metric] == pytest.approx(values.mean())
                assert got["std"][metric] == pytest.approx(std)
                assert got["folds"]["3"][metric] == values[3]
    assert result["units"]["patient"]["n"] == 60
    assert np.sum(result["units"]["region"]["confusion"]) == 120
    assert result["ddof"] == 1
    json.dumps(result, allow_nan=False)


def test_rows_with_errors_or_without_truth_are_left_out_and_counted():
    rows = cross_validation(folds=1, n=40)
    prob, y = rows.prob.copy(), rows.y.copy()
    prob[:3], y[3:5] = np.nan, -1
    error = ("gone",) * 3 + ("",) * 37
    result = summarize(dataclasses.replace(rows, prob=prob, y=y, error=error))
    assert (result["rows"], result["failed"], result["unlabelled"]) == (40, 3, 2)
    assert result["units"]["region"]["n"] == 35
    assert result["units"]["region"]["micro"]["std"]["auc"] is None  # one fold
    expected = scores(y[5:], prob[5:], average="micro")["auc"]
    assert result["units"]["region"]["micro"]["mean"]["auc"] == pytest.approx(expected)
    assert any("3 of 40 rows have an error" in note for note in result["notes"])
    assert any("2 rows have no known class" in note for note in result["notes"])


def test_mean_skips_folds_with_one_class():
    rows = cross_validation(folds=3)
    y = np.where(rows.fold == 1, 2, rows.y)
    result = summarize(dataclasses.replace(rows, y=y))["units"]["region"]["micro"]
    assert result["folds"]["1"]["auc"] is None
    others = [result["folds"][k]["auc"] for k in "02"]
    assert result["mean"]["auc"] == pytest.approx(np.mean(others))
    notes = summarize(dataclasses.replace(rows, y=y))["notes"]
    assert any(n.startswith("fold 1, per region: only class 2") for n in notes)


def test_table_without_scorable_rows_is_an_error():
    rows = cross_validation(folds=1, n=4)
    with pytest.raises(ValueError, match=r"None of the 4 rows.*4 have no y"):
        summarize(dataclasses.replace(rows, y=np.full(4, -1)))


def test_images_without_patients_have_no_patient_metrics():
    rows = dataclasses.replace(cross_validation(), patient=("",) * 120)
    result = summarize(rows)
    assert result["units"]["patient"] is None
    assert any("no metrics per patient" in note for note in result["notes"])
    with pytest.raises(ValueError, match="no metrics per patient"):
        format_table(result, unit="patient", scheme=None, caption="")


# --- table ------------------------------------------------------------------------


def test_table_is_aligned_and_states_its_conditions():
    result = summarize(cross_validation())
    text = format_table(
        result, unit="region", scheme="patient", caption="Five folds", paper_row="FoF"
    )
    caption, conditions, head, run, paper = text.split("\n")
    assert caption == "Five folds"
    for words in ("patient split, 5 folds", "per region", "micro", "ddof 1"):
        assert words in conditions
    assert len(head) == len(run) == len(paper)
    bars = [[i for i, sign in enumerate(row) if sign == "|"] for row in (head, run)]
    assert bars[0] == bars[1] == [i for i, sign in enumerate(paper) if sign == "|"]
    assert paper.startswith("FoF (paper, Table I)")
    assert [cell.strip() for cell in paper.split("|")[1:]] == [
        "94.17 ± 0.68",
        "89.98 ± 1.35",
        "79.98 ± 2.17",
        "69.05 ± 2.24",
    ]
    micro = result["units"]["region"]["micro"]
    expected = f"{100 * micro['mean']['auc']:.2f} ± {100 * micro['std']['auc']:.2f}"
    assert run.split("|")[1].strip() == expected


def test_table_states_what_is_undefined():
    rows = cross_validation(folds=1)
    result = summarize(dataclasses.replace(rows, y=np.zeros(24, int)))
    options = {"unit": "patient", "caption": "x", "average": "macro"}
    text = format_table(result, scheme="roi", **options)
    assert "split by region: patients are in both training and test" in text
    assert "mean of probabilities over its images" in text
    assert "1 fold;" in text
    assert [c.strip() for c in text.split("\n")[3].split("|")[1:3]] == ["none", "none"]
    assert "split unit unknown" in format_table(result, scheme=None, **options)
    with pytest.raises(ValueError, match="no row 'FOF'; expected one of 'Baseline'"):
        format_table(result, scheme="roi", paper_row="FOF", **options)


def test_paper_rows_match_its_tables():
    assert FIGURES["Baseline"][0] == (90.37, 0.82)
    assert FIGURES["FoF w/o FRL"][3] == (64.31, 2.13)
    assert FIGURES["FoF w/o MCA"][1] == (88.26, 0.93)
    # Gains of FoF in Sec. IV-B and IV-C: AUC, AP, accuracy, kappa.
    for label, expected in {
        "Baseline": (3.80, 6.93, 5.62, 7.89),
        "CLAT": (1.75, 3.64, 3.51, 4.71),
        "FoF w/o FRL": (0.97, 1.54, 3.09, 4.74),
        "FoF w/o MCA": (0.53, 1.72, 3.43, 5.20),
        "DGKD": (0.74, 2.23, 1.90, 2.32),
        "FOAA": (1.02, 3.28, 2.08, 3.69),
    }.items():
        rows = zip(FIGURES["FoF"], FIGURES[label], strict=True)
        assert [f[0] - b[0] for f, b in rows] == pytest.approx(expected, abs=1e-9)
    assert [sum(r.table == t for r in ROWS) for t in ("I", "II")] == [16, 8]


# --- file format ---------------------------------------------------------------------


def test_predictions_round_trip(tmp_path):
    rows = cross_validation(folds=2, n=6)
    prob = rows.prob.copy()
    prob[4] = np.nan
    rows = dataclasses.replace(
        rows,
        prob=prob,
        y=np.where(np.arange(12) == 5, -1, rows.y),
        fold=np.where(np.arange(12) == 6, -1, rows.fold),
        patient=("", 'a, "b"', *rows.patient[2:]),
        error=("",) * 4 + ("no image: ü\nline",) + ("",) * 7,
    )
    path = tmp_path / "predictions.csv"
    write_predictions(path, rows)
    restored = read_predictions(path)
    for name in ("patient", "image", "error"):
        assert getattr(restored, name) == getattr(rows, name)
    np.testing.assert_array_equal(restored.fold, rows.fold)
    np.testing.assert_array_equal(restored.y, rows.y)
    np.testing.assert_allclose(restored.prob, rows.prob, atol=1e-9)
    head, first = path.read_text().splitlines()[:2]
    assert head == "patient,image,fold,y,pred,p_0,p_1,p_2,entropy,error"
    cells = first.split(",")
    p = rows.prob[0]
    assert int(cells[4]) == p.argmax()
    assert float(cells[8]) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-8)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]


def test_entropy_of_certainty_is_zero():
    assert table([0], [[1.0, 0.0]]).entropy.tolist() == [0.0]
    assert table([0], [[0.5, 0.5]]).entropy[0] == pytest.approx(np.log(2))


def test_reads_patient_maxima(tmp_path):
    maxima = by_patient(cross_validation(folds=1, n=6), aggregate="max")
    assert maxima.prob.sum(axis=1).max() > 1.1
    write_predictions(tmp_path / "patients.csv", maxima)
    restored = read_predictions(tmp_path / "patients.csv")
    np.testing.assert_allclose(restored.prob, maxima.prob, atol=1e-9)


def test_reads_files_of_pandas_and_spreadsheets(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "\ufeffimage,patient,extra,fold,y,pred,p_0,p_1,entropy,error\r\n"
        "1.png,a,?,0.0,1.0,1,0.3333,0.6667,,\r\n"
        "2.png,a,?,,,,0.5,0.5,,\r\n",
        encoding="utf-8",
    )
    rows = read_predictions(path)
    assert rows.y.tolist() == [1, -1]
    assert rows.fold.tolist() == [0, -1]
    assert rows.pred.tolist() == [1, 0]


HEAD = "patient,image,fold,y,pred,p_0,p_1,entropy,error\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column.*it has none"),
        ("patient,image,p_0,p_1\na,1,1,0\n", r"lacks the column\(s\) y; it has"),
        ("y,p_0,p_1,p_1\n0,1,0,0\n", r"column\(s\) p_1 twice"),
        ("y,p_0,p_1,p_value\n0,1,0,0\n", "p_value beside p_0"),
        ("y,p_II,p_III\n2,1,0\n", "y is '2', expected II, III or empty"),
        ("y,p_2,p_3\n0,1,0\n", "y is '0', expected 2, 3 or empty"),
        ("y,pred,p_II,p_IV\nII,IV,0.9,0.1\n", "pred is IV, but p_II is the largest"),
        ("patient,image,fold,y,pred,p_1,entropy,error\n", r"lacks the column\(s\) p_0"),
        (HEAD, "no rows below its header"),
        (HEAD + "a,1,0,0,0,1.2,-0.2,,\n", "line 2: p_0 is '1.2', expected a prob"),
        (HEAD + "a,1,0,0,0,0.5,nan,,\n", "p_1 is 'nan', expected a probability"),
        (HEAD + "a,1,0,0,0,0.5,,,\n", "p_1 is '', expected a probability"),
        (HEAD + "a,1,0,0,0,0.5,0.4,,\n", "sum to 0.9, expected 1"),
        (HEAD + "a,1,0,2,0,0.5,0.5,,\n", "y is '2', expected 0 … 1 or empty"),
        (HEAD + "a,1,0,II,0,0.5,0.5,,\n", "y is 'II', expected 0 … 1 or empty"),
        (HEAD + "a,1,0,nan,0,0.5,0.5,,\n", "y is 'nan', expected 0 … 1 or empty"),
        (HEAD + "a,1,-1,1,0,0.5,0.5,,\n", "fold is '-1', expected 0, 1, 2"),
        (HEAD + "a,1,0,0,1,0.9,0.1,,\n", "pred is 1, but p_0 is the largest"),
        (HEAD + ",,0,0,0,0.9,0.1,,\n", "neither patient nor image"),
        (HEAD + "a,1,0,0,0,0.9\n", "more or fewer fields"),
        (HEAD + 2 * "a,1,0,0,0,0.9,0.1,,\n", "line 3: .*is also on line 2"),
        (HEAD + "".join(f"a,{i},0,9,0,1,0,,\n" for i in range(12)), "and 2 more"),
    ],
)
def test_invalid_file_message(tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?s)wrong.csv .*{message}") as caught:
        read_predictions(path)
    assert "xpected" in str(caught.value)


def test_named_classes_are_written_and_read(tmp_path):
    rows = dataclasses.replace(
        table([0, -1, 2], [[0.2, 0.5, 0.3], [1.0, 0, 0], [0.1, 0.2, 0.7]]),
        classes=("1", "0", "2+"),
    )
    write_predictions(tmp_path / "p.csv", rows, spread=rows.prob / 10)
    head, first, *_ = (tmp_path / "p.csv").read_text().splitlines()
    assert head == (
        "patient,image,fold,y,pred,pred_index,p_1,p_0,p_2+,entropy,error,s_1,s_0,s_2+"
    )
    assert first.split(",")[3:9] == ["1", "0", "1", "0.2", "0.5", "0.3"]
    restored = read_predictions(tmp_path / "p.csv")
    assert restored.classes == rows.classes
    assert restored.y.tolist() == [0, -1, 2]
    assert restored.pred.tolist() == [1, 0, 2]
    np.testing.assert_allclose(restored.prob, rows.prob)
    assert by_patient(restored).classes == rows.classes
    numbered = dataclasses.replace(rows, classes=None)
    with pytest.raises(ValueError, match="name their classes differently"):
        join([rows.rows(np.arange(3) < 1), numbered.rows(np.arange(3) > 0)])


def test_only_labels_and_probabilities_are_required(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("p_IV,y,p_II\n0.75,IV,0.25\n0.1,II,0.9\n0.5,,0.5\n")
    rows = read_predictions(path)
    assert rows.classes == ("IV", "II")
    assert rows.y.tolist() == [0, 1, -1]
    assert rows.prob.tolist() == [[0.75, 0.25], [0.1, 0.9], [0.5, 0.5]]
    assert rows.patient == ("",) * 3
    assert rows.fold.tolist() == [-1] * 3
    assert rows.image[0] == f"{path}, line 2"
    other = tmp_path / "y.csv"
    other.write_text(path.read_text())
    assert len(join([rows, read_predictions(other)])) == 6
    with pytest.raises(ValueError, match="in two of the predictions files"):
        join([rows, read_predictions(path)])


def test_notes_name_the_classes():
    found = scores(np.array([1, 1]), np.full((2, 2), 0.5), average="micro",
                   names=("II", "IV"))  # fmt: skip
    assert found["notes"][0].startswith("only class IV occurs (2 rows)")


def test_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.csv cannot be read"):
        read_predictions(tmp_path / "gone.csv")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"x\.png is not UTF-8"):
        read_predictions(tmp_path / "x.png")


def test_join_concatenates_and_rejects_mismatches():
    rows = cross_validation(folds=2, n=6)
    parts = [rows.rows(rows.fold == k) for k in (0, 1)]
    joined = join(parts)
    assert joined.image == rows.image
    np.testing.assert_array_equal(joined.prob, rows.prob)
    with pytest.raises(ValueError, match="is in two of the predictions files"):
        join([parts[0], parts[0]])
    with pytest.raises(ValueError, match=r"have \[2, 3\] classes"):
        join([parts[0], table([0], [[0.5, 0.5]])])
