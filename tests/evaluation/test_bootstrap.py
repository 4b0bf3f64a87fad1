"""Bootstrap intervals and calibration: hand-computed cases and plain loops."""

import numpy as np
import pytest

from fof_jax.evaluation import bootstrap, calibration, metrics
from fof_jax.evaluation.predictions import Predictions

METRICS = ("auc", "ap", "accuracy", "kappa", "balanced_accuracy", "f1")


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
    """Random labels and probabilities, rounded so that many scores are tied."""
    rng = np.random.default_rng(seed)
    prob = np.round(rng.dirichlet(np.ones(classes), n), decimals)
    return rng, rng.integers(0, classes, n), prob


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("classes", [2, 4])
def test_weighted_scores_equal_scores_of_repeated_rows(average, classes):
    rng, y, prob = random_case(classes, classes=classes)
    weights = rng.integers(0, 4, (25, len(y)))
    got = bootstrap.weighted_scores(y, prob, weights, average)
    for r, times in enumerate(weights):
        at = np.repeat(np.arange(len(y)), times)
        expected = metrics.scores(y[at], prob[at], average=average)
        for metric in METRICS:
            assert got[metric][r] == pytest.approx(expected[metric], abs=1e-12), metric


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_undefined_metrics_of_a_replicate_are_nan(average):
    prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    weights = np.array([[2, 0, 1], [1, 1, 1]])  # the first has class 0 alone
    got = bootstrap.weighted_scores(np.array([0, 1, 0]), prob, weights, average)
    for metric in ("auc", "ap", "kappa"):
        assert np.isnan(got[metric][0])
        assert got[metric][1] == 1
    np.testing.assert_array_equal(got["accuracy"], [1, 1])


def test_interval_by_hand():
    # Patient a: 3 regions, all correct. Patient b: 1 region, wrong. Replicates: aa
    # (1/4) gives 1, ab (1/2) gives 3/4, bb (1/4) gives 0. So the 2.5th and 97.5th
    # percentiles are 0 and 1; resampled by region they would be narrower.
    rows = table("aaab", [0, 1, 0, 1], [[1, 0], [0, 1], [1, 0], [1, 0]])
    got = bootstrap.confidence_intervals(rows, replicates=4000)["accuracy"]
    assert (got.low, got.high, got.replicates) == (0.0, 1.0, 4000)
    rng = np.random.default_rng(0)
    accuracy = bootstrap._fold_scores(rows, "micro", 4000, rng)["accuracy"]
    values, counts = np.unique(accuracy, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.75, 1])
    # Fractions of 4000 replicates; four standard deviations are 0.032.
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.032)


def test_replicates_average_over_folds():
    # One patient per fold: every replicate is the table itself.
    rows = table(
        "aabb", [0, 1, 0, 1], [[1, 0], [1, 0], [1, 0], [0, 1]], fold=[0, 0, 1, 1]
    )
    got = bootstrap.confidence_intervals(rows, replicates=5)["accuracy"]
    assert got.low == got.high == pytest.approx((0.5 + 1) / 2)


def test_intervals_agree_with_a_plain_loop():
    rng, y, prob = random_case(7, n=60, decimals=3)
    patient = rng.integers(0, 20, 60).astype(str)
    fold = (patient.astype(int) % 2).astype(int)
    rows = table(patient, y, prob, fold=fold)
    got = bootstrap.confidence_intervals(rows, replicates=4000, seed=1)["accuracy"]
    rng = np.random.default_rng(5)
    values = []
    for _ in range(4000):
        per_fold = []
        for k in (0, 1):
            names = np.unique(patient[fold == k])
            at = np.concatenate(
                [np.flatnonzero(patient == p) for p in rng.choice(names, len(names))]
            )
            per_fold.append(np.mean(prob[at].argmax(axis=1) == y[at]))
        values.append(np.mean(per_fold))
    # The ends vary by about a hundredth of the width with 4000 replicates.
    low, high = np.percentile(values, [2.5, 97.5])
    np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.012)


def test_rows_that_cannot_be_scored_are_left_out():
    rows = table(
        ["a", "", "b", "c"],
        [0, 1, 1, -1],
        [[1, 0], [0, 1], [np.nan, np.nan], [1, 0]],
        error=["", "", "broken", ""],
    )
    got = bootstrap.confidence_intervals(rows, replicates=50)
    assert got["accuracy"].low == got["accuracy"].high == 1
    assert (
        bootstrap.confidence_intervals(rows, replicates=50, average="macro")[
            "auc"
        ].replicates
        < 50
    )
    assert bootstrap.confidence_intervals(rows.rows(np.zeros(4, bool))) == {}
    with pytest.raises(ValueError, match="0 replicates"):
        bootstrap.confidence_intervals(rows, replicates=0)


def test_calibration_by_hand():
    # Confidence: 0.9 correct, 0.9 wrong, 0.6 correct, 0.55 wrong, 1.0 correct.
    prob = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.0, 1.0]]
    got = calibration.reliability(np.array([0, 1, 1, 1, 1]), np.array(prob), bins=5)
    np.testing.assert_array_equal(got.count, [0, 0, 2, 0, 3])
    np.testing.assert_allclose(got.confidence[[2, 4]], [0.575, 2.8 / 3])
    np.testing.assert_allclose(got.accuracy[[2, 4]], [0.5, 2 / 3])
    assert np.isnan(got.confidence[[0, 1, 3]]).all()
    # 2/5 |0.5 - 0.575| + 3/5 |2/3 - 2.8/3| = 0.03 + 0.16
    assert got.ece == pytest.approx(0.19)


def test_perfect_and_worst_calibration():
    certain = np.eye(2)[[0, 1, 0, 1]]
    assert calibration.reliability(np.array([0, 1, 0, 1]), certain).ece == 0
    assert calibration.reliability(np.array([1, 0, 1, 0]), certain).ece == 1
    with pytest.raises(ValueError, match="0 labels"):
        calibration.reliability(np.zeros(0, int), np.zeros((0, 2)))
