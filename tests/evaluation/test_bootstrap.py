"""Bootstrap intervals and calibration against hand-computed cases and plain loops."""

import numpy as np
import pytest

from fof_jax.evaluation import bootstrap, calibration, metrics
from fof_jax.evaluation.predictions import Predictions

FIGURES = ("auc", "ap", "accuracy", "kappa", "balanced_accuracy", "f1")


def table(patient, y, prob, fold=None, error=None):
    n = len(y)
    return Predictions(
        patient=tuple(patient),
        image=tuple(f"{i}.png" for i in range(n)),
        fold=np.zeros(n, int) if fold is None else np.asarray(fold),
        y=np.asarray(y),
        prob=np.asarray(prob, float),
        error=tuple(error or [""] * n),
    )


def random_case(seed, n=40, classes=3, decimals=1):
    """Few decimals, so that many scores are equal."""
    draw = np.random.default_rng(seed)
    prob = np.round(draw.dirichlet(np.ones(classes), n), decimals)
    return draw, draw.integers(0, classes, n), prob


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("classes", [2, 4])
def test_weights_are_rows_that_stand_several_times(average, classes):
    draw, y, prob = random_case(classes, classes=classes)
    weights = draw.integers(0, 4, (25, len(y)))
    got = bootstrap.weighted_scores(y, prob, weights, average)
    for r, times in enumerate(weights):
        at = np.repeat(np.arange(len(y)), times)
        want = metrics.scores(y[at], prob[at], average=average)
        for figure in FIGURES:
            assert got[figure][r] == pytest.approx(want[figure], abs=1e-12), figure


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_what_does_not_exist_in_a_draw_is_nan(average):
    prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    weights = np.array([[2, 0, 1], [1, 1, 1]])  # the first has class 0 alone
    got = bootstrap.weighted_scores(np.array([0, 1, 0]), prob, weights, average)
    for figure in ("auc", "ap", "kappa"):
        assert np.isnan(got[figure][0])
        assert got[figure][1] == 1
    np.testing.assert_array_equal(got["accuracy"], [1, 1])


def test_an_interval_by_hand():
    # Patient a: 3 regions, all right. Patient b: 1 region, wrong. Two patients drawn:
    # aa (1/4) gives 1, ab (1/2) gives 3/4, bb (1/4) gives 0. So the 2.5th and the
    # 97.5th percentile are 0 and 1; drawn by region they would be narrower.
    rows = table("aaab", [0, 1, 0, 1], [[1, 0], [0, 1], [1, 0], [1, 0]])
    got = bootstrap.bootstrap(rows, replicates=4000)["accuracy"]
    assert (got.low, got.high, got.draws) == (0.0, 1.0, 4000)
    draws = bootstrap._fold(rows, "micro", 4000, np.random.default_rng(0))["accuracy"]
    values, counts = np.unique(draws, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.75, 1])
    # Shares of 4000 draws; four standard deviations are 0.032.
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.032)


def test_the_figure_of_a_draw_is_the_mean_over_folds():
    # One patient a fold: every draw is the table itself.
    rows = table(
        "aabb", [0, 1, 0, 1], [[1, 0], [1, 0], [1, 0], [0, 1]], fold=[0, 0, 1, 1]
    )
    got = bootstrap.bootstrap(rows, replicates=5)["accuracy"]
    assert got.low == got.high == pytest.approx((0.5 + 1) / 2)


def test_intervals_agree_with_a_plain_loop():
    draw, y, prob = random_case(7, n=60, decimals=3)
    patient = draw.integers(0, 20, 60).astype(str)
    fold = (patient.astype(int) % 2).astype(int)
    rows = table(patient, y, prob, fold=fold)
    got = bootstrap.bootstrap(rows, replicates=4000, seed=1)["accuracy"]
    again = np.random.default_rng(5)
    values = []
    for _ in range(4000):
        per_fold = []
        for k in (0, 1):
            names = np.unique(patient[fold == k])
            at = np.concatenate(
                [np.flatnonzero(patient == p) for p in again.choice(names, len(names))]
            )
            per_fold.append(np.mean(prob[at].argmax(axis=1) == y[at]))
        values.append(np.mean(per_fold))
    # Ends of an interval of 4000 draws vary by about a hundredth of its width.
    low, high = np.percentile(values, [2.5, 97.5])
    np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.012)


def test_rows_that_cannot_be_scored_are_left_out():
    rows = table(
        ["a", "", "b", "c"],
        [0, 1, 1, -1],
        [[1, 0], [0, 1], [np.nan, np.nan], [1, 0]],
        error=["", "", "broken", ""],
    )
    got = bootstrap.bootstrap(rows, replicates=50)
    assert got["accuracy"].low == got["accuracy"].high == 1
    assert bootstrap.bootstrap(rows, replicates=50, average="macro")["auc"].draws < 50
    assert bootstrap.bootstrap(rows.rows(np.zeros(4, bool))) == {}
    with pytest.raises(ValueError, match="0 replicates"):
        bootstrap.bootstrap(rows, replicates=0)


def test_calibration_by_hand():
    # Confidence 0.9 (right), 0.9 (wrong), 0.6 (right), 0.55 (wrong), 1.0 (right).
    prob = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.0, 1.0]]
    got = calibration.reliability(np.array([0, 1, 1, 1, 1]), np.array(prob), bins=5)
    np.testing.assert_array_equal(got.count, [0, 0, 2, 0, 3])
    np.testing.assert_allclose(got.confidence[[2, 4]], [0.575, 2.8 / 3])
    np.testing.assert_allclose(got.accuracy[[2, 4]], [0.5, 2 / 3])
    assert np.isnan(got.confidence[[0, 1, 3]]).all()
    # 2/5 |0.5 - 0.575| + 3/5 |2/3 - 2.8/3| = 0.03 + 0.16
    assert got.ece == pytest.approx(0.19)


def test_perfect_and_worst_calibration():
    sure = np.eye(2)[[0, 1, 0, 1]]
    assert calibration.reliability(np.array([0, 1, 0, 1]), sure).ece == 0
    assert calibration.reliability(np.array([1, 0, 1, 0]), sure).ece == 1
    with pytest.raises(ValueError, match="0 labels"):
        calibration.reliability(np.zeros(0, int), np.zeros((0, 2)))
