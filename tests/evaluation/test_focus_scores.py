"""Scores of explainers: each against a plain loop on hand cases, and their tables."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fof_jax.evaluation import focus_scores, focus_table, focus_text
from fof_jax.evaluation.patient_mean import patient_mean


def maps(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.random((4, 6, 5))
    mask = rng.random((4, 6, 5)) < 0.4
    A[1] = np.round(2 * A[1]) / 2  # many ties
    A[2] = 0.5  # constant
    mask[3] = False
    return A, mask


def test_pointing_against_a_loop():
    rng = np.random.default_rng(3)
    evidence = rng.standard_normal((6, 2, 3))
    mask = rng.random((6, 8, 12)) < 0.5
    evidence[1, 0, :2] = 9.0  # two highest patches
    mask[1, :4, :4], mask[1, :4, 4:8] = True, False
    evidence[2] = -1.0
    expected = []
    for b in range(6):
        patches = [(i, j) for i in range(2) for j in range(3)]
        highest = max(evidence[b][at] for at in patches)
        top = [at for at in patches if evidence[b][at] == highest > 0]
        hits = 0
        for i, j in top:
            inside = 0
            for y in range(4 * i, 4 * i + 4):
                for x in range(4 * j, 4 * j + 4):
                    inside += bool(mask[b, y, x])
            hits += inside >= 8
        expected.append(hits / len(top) if top else 0)
    np.testing.assert_allclose(focus_scores.pointing(evidence, mask), expected)
    assert (expected[1], expected[2]) == (0.5, 0)


def test_iou_at_own_area_against_a_loop():
    """Without ties, with ties at the cut, constant, and without a mask."""
    A, mask = maps()
    found = focus_scores.iou_at_own_area(A, mask)
    pixels = [(i, j) for i in range(6) for j in range(5)]
    n = int(mask[0].sum())
    top = sorted(pixels, key=lambda at: -A[0][at])[:n]
    both = sum(bool(mask[0][at]) for at in top)
    assert found[0] == pytest.approx(both / (2 * n - both))
    # Pixels that tie at the cut count with the share of them that fits.
    n = int(mask[1].sum())
    cut = sorted((A[1][at] for at in pixels), reverse=True)[n - 1]
    above = [at for at in pixels if A[1][at] > cut]
    tied = [at for at in pixels if A[1][at] == cut]
    assert len(tied) > n - len(above) > 0
    both = sum(bool(mask[1][at]) for at in above)
    both += (n - len(above)) * np.mean([bool(mask[1][at]) for at in tied])
    assert found[1] == pytest.approx(both / (2 * n - both))
    area = mask[2].mean()
    assert found[2] == pytest.approx(area / (2 - area))
    assert math.isnan(found[3])


def test_iou_of_a_perfect_and_of_a_wrong_map():
    mask = np.zeros((1, 2, 4), bool)
    mask[0, 0] = True
    assert focus_scores.iou_at_own_area(mask.astype(float), mask) == [1.0]
    assert focus_scores.iou_at_own_area(1.0 - mask, mask) == [0.0]


def test_average_precision_against_a_loop_and_scikit_learn():
    A, mask = maps(1)
    found = focus_scores.average_precision(A, mask)
    for b in range(3):
        scores, truth = A[b].ravel().tolist(), mask[b].ravel().tolist()
        total, before = 0.0, 0
        for threshold in sorted(set(scores), reverse=True):
            called = [t for s, t in zip(scores, truth, strict=True) if s >= threshold]
            hits = sum(called)
            total += (hits - before) * hits / len(called)
            before = hits
        assert found[b] == pytest.approx(total / sum(truth), rel=1e-12)
        assert found[b] == pytest.approx(
            sk.average_precision_score(truth, scores), rel=1e-12
        )
    assert found[2] == pytest.approx(mask[2].mean())
    assert math.isnan(found[3])


def test_rank_correlation_against_a_loop():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 6, (2, 3, 4, 4)).astype(float)
    b[1], b[2] = -a[1], 7.0

    def ranks(values):
        flat = values.ravel().tolist()
        below = [sum(other < v for other in flat) for v in flat]
        equal = [sum(other == v for other in flat) for v in flat]
        return [b + (e - 1) / 2 for b, e in zip(below, equal, strict=True)]

    found = focus_scores.rank_correlation(a, b)
    assert found[0] == pytest.approx(np.corrcoef(ranks(a[0]), ranks(b[0]))[0, 1])
    assert found[1] == pytest.approx(-1)
    assert math.isnan(found[2])
    assert focus_scores.rank_correlation(a, a)[0] == pytest.approx(1)


def test_stability_is_the_mean_over_pairs_of_folds():
    """Against scipy; a constant map has no rank correlation and is left out."""
    rng = np.random.default_rng(5)
    maps = [rng.integers(0, 9, (4, 4)).astype(float) for _ in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    want = [stats.spearmanr(maps[a], maps[b], axis=None).statistic for a, b in pairs]
    assert focus_scores.agreement(maps) == pytest.approx(np.mean(want))
    with_constant = [*maps, np.ones((4, 4))]
    assert focus_scores.agreement(with_constant) == pytest.approx(np.mean(want))
    assert math.isnan(focus_scores.agreement(maps[:1]))


def test_order_ranks_patches_and_breaks_ties_by_the_image():
    evidence = np.array([[[3.0, 1.0], [2.0, 5.0]]])
    assert focus_scores.order(evidence, np.array([0])).tolist() == [[[1, 3], [2, 0]]]
    equal = np.zeros((2, 4, 4))
    first, other = focus_scores.order(equal, np.array([7, 8]))
    assert sorted(first.ravel()) == list(range(16))
    assert (first != other).any()
    assert (focus_scores.order(equal[:1], np.array([7]))[0] == first).all()


def test_patient_mean_resamples_patients():
    """One patient with a 0, one with three 1s: a replicate has 0, 0.75 or 1."""
    found = patient_mean([0.0, 1.0, 1.0, 1.0, np.nan], ["a", "b", "b", "b", "c"])
    assert found.mean == 0.75
    assert (found.low, found.high) == (0, 1)
    assert (found.images, found.patients) == (4, 2)
    alone = patient_mean([0.25, 0.75], ["a", "a"])
    assert alone.mean == 0.5
    assert alone.low is None
    assert patient_mean([np.nan], ["a"]) is None


def test_patient_mean_against_a_loop():
    rng = np.random.default_rng(5)
    values, patients = rng.random(40), [f"p{i}" for i in rng.integers(0, 9, 40)]
    names = sorted(set(patients))
    drawn = np.random.default_rng(0).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=300
    )
    means = []
    for counts in drawn:
        total = size = 0.0
        for value, patient in zip(values, patients, strict=True):
            times = counts[names.index(patient)]
            total, size = total + times * value, size + times
        means.append(total / size)
    found = patient_mean(values, patients, replicates=300)
    assert found.low == pytest.approx(np.percentile(means, 2.5), rel=1e-12)
    assert found.high == pytest.approx(np.percentile(means, 97.5), rel=1e-12)


def row(image, explainer, *, pointing, blind=False, grade="II", **figures):
    return focus_table.Row(
        image=image,
        tile=0,
        patient=f"patient of {image}",
        fold="fold_0",
        grade=grade,
        explainer=explainer,
        title=explainer.title(),
        blind=blind,
        figures={name: np.nan for name in focus_table.FIGURES if name != "above_blind"}
        | {"pointing": pointing}
        | figures,
    )


ROWS = [
    row("a", "eq1", pointing=1.0, randomized=0.1),
    row("b", "eq1", pointing=0.0, randomized=0.3),
    row("c", "eq1", pointing=1.0, randomized=0.2, grade="IV"),
    row("a", "edges", pointing=0.0, randomized=1.0, blind=True),
    row("b", "edges", pointing=0.25, randomized=1.0, blind=True),
    row("c", "edges", pointing=0.0, randomized=1.0, blind=True, grade="IV"),
    row("a", "dark", pointing=0.0, blind=True),
    row("b", "dark", pointing=0.0, blind=True),
    row("c", "dark", pointing=0.5, blind=True, grade="IV"),
]


def test_summary_compares_with_the_best_blind_rule_of_the_grade():
    found = {(s.grade, s.explainer): s for s in focus_table.summarize(ROWS)}
    assert found["II", "eq1"].figures["above_blind"].mean == pytest.approx(
        (1.0 - 0.0 + 0.0 - 0.25) / 2
    )
    assert found["IV", "eq1"].figures["above_blind"].mean == pytest.approx(0.5)
    assert found["all", "eq1"].figures["pointing"].mean == pytest.approx(2 / 3)
    assert found["all", "edges"].figures["above_blind"] is None
    assert found["all", "eq1"].figures["ms"] is None
    assert not found["all", "eq1"].ignores_model
    assert found["all", "edges"].ignores_model
    assert not found["all", "edges"].is_unchecked
    assert found["all", "dark"].is_unchecked  # no correlation of any of its maps
    text = focus_text.format_focus(list(found.values()))
    assert "Not checked for dependence on the model" in text
    assert text.endswith(": Dark")


def test_scores_are_written_and_read(tmp_path):
    path = tmp_path / "scores.csv"
    focus_table.write(path, ROWS)
    again = focus_table.read(path)
    assert [r.figures["pointing"] for r in again] == [
        r.figures["pointing"] for r in ROWS
    ]
    assert math.isnan(again[0].figures["iou"])
    assert [r.blind for r in again] == [r.blind for r in ROWS]
    path.write_text("image,tile\n")
    with pytest.raises(ValueError, match="Run focus again"):
        focus_table.read(path)
