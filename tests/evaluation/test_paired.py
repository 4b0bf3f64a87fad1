"""Paired bootstrap by patient and Holm's correction.

References: cases counted by hand, a plain loop that copies the sampled rows and scores
them with scikit-learn, and counts of false positives on simulated methods.
"""

import numpy as np
import pytest

from fof_jax.evaluation import metrics, paired
from fof_jax.evaluation.predictions import Predictions


def table(prob, y, patients, fold=0):
    """Predictions of one fold; two names may share a patient."""
    count = len(y)
    return Predictions(
        patient=tuple(patients),
        image=tuple(f"{fold}-{i}" for i in range(count)),
        fold=np.full(count, fold),
        y=np.asarray(y),
        prob=np.asarray(prob, float),
        error=("",) * count,
    )


def simulated(rng, y, skill, fold, *, per_patient=2):
    """A method whose true class has a score that is higher by `skill`.

    Noise has a part that regions of a patient share.
    """
    shared = np.repeat(rng.normal(size=(len(y) // per_patient, 3)), per_patient, axis=0)
    score = rng.normal(size=(len(y), 3)) + shared
    score[np.arange(len(y)), y] += skill
    prob = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    names = [f"f{fold}p{i // per_patient}" for i in range(len(y))]
    return table(prob, y, names, fold)


def grades(rng, regions):
    """Two regions per patient, of one grade."""
    return np.repeat(rng.integers(0, 3, regions // 2), 2)


def one_hot(right, y):
    """Probabilities whose argmax is `y` where `right`, and another class elsewhere."""
    shown = np.where(right, y, (y + 1) % 3)
    return 0.1 + 0.7 * np.eye(3)[shown]


def test_a_difference_counted_by_hand():
    """Three patients of one region; A has all right, B all but the last patient's.

    Of the 27 equally likely samples, the accuracy differs by k/3 where the last
    patient is drawn k times: 8, 12, 6 and 1 samples for k = 0 … 3. At or below 0: 8/27.
    """
    y = np.array([0, 1, 2])
    names = ("a", "b", "c")
    ours = {(0, 0): table(one_hot([True] * 3, y), y, names)}
    other = {(0, 0): table(one_hot([True, True, False], y), y, names)}
    replicates = 20000
    weights = paired.patient_weights({0: ours[0, 0]}, replicates=replicates)
    drawn = [paired.replicates(cells, weights) for cells in (ours, other)]
    found = paired.difference(*drawn, "accuracy")
    assert found.value == pytest.approx(1 / 3)
    assert (found.low, found.high) == (0.0, pytest.approx(1.0))  # 3.7% have k = 3
    # The standard error of a proportion of 20,000 is 0.0032.
    assert found.p == pytest.approx(2 * 8 / 27, abs=4 * 2 * 0.0033)
    times = np.round(3 * drawn[0].draws["accuracy"][0, 0]) - np.round(
        3 * drawn[1].draws["accuracy"][0, 0]
    )
    shares = [np.mean(times == k) for k in range(4)]
    assert shares == pytest.approx([8 / 27, 12 / 27, 6 / 27, 1 / 27], abs=0.014)


def test_differences_equal_a_loop_that_copies_the_sampled_rows():
    """Folds, seeds and shared patients; every replicate is scored by scikit-learn."""
    rng = np.random.default_rng(5)
    y = {fold: grades(rng, 20) for fold in (0, 1)}
    cells = [
        {
            (seed, fold): simulated(rng, y[fold], skill, fold)
            for seed in (1, 2)
            for fold in (0, 1)
        }
        for skill in (1.0, 0.5)
    ]
    by_fold = {fold: cells[0][1, fold] for fold in (0, 1)}
    weights = paired.patient_weights(by_fold, replicates=8, seed=3)
    drawn = [paired.replicates(one, weights) for one in cells]
    means: dict[str, list[float]] = {metric: [] for metric in paired.METRICS}
    for r in range(8):
        rows = {fold: np.repeat(np.arange(20), weights[fold][r]) for fold in (0, 1)}
        apart = [
            differences(ours, cells[1][key], rows[key[1]])
            for key, ours in cells[0].items()
        ]
        for metric in paired.METRICS:
            means[metric].append(np.mean([one[metric] for one in apart]))
    whole = [
        differences(ours, cells[1][key], np.arange(20))
        for key, ours in cells[0].items()
    ]
    for metric in paired.METRICS:
        found = paired.difference(*drawn, metric)
        assert found.cells == 4
        ends = np.percentile(means[metric], [2.5, 97.5])
        assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-12)
        below = np.sum(np.array(means[metric]) <= 0)
        above = np.sum(np.array(means[metric]) >= 0)
        assert found.p == min(1, 2 * (1 + min(below, above)) / 9)
        mean = np.mean([one[metric] for one in whole])
        assert found.value == pytest.approx(mean, abs=1e-12)


def differences(one, other, at):
    """Metrics of one table minus those of another, on the rows `at`."""
    first, second = (
        metrics.scores(table.y[at], table.prob[at], average="micro")
        for table in (one, other)
    )
    return {metric: first[metric] - second[metric] for metric in paired.METRICS}


def test_a_patient_of_two_folds_is_sampled_once():
    y = np.zeros(2, int)
    prob = np.full((2, 3), 1 / 3)
    first, second = (table(prob, y, ("a", name), k) for k, name in enumerate("bc"))
    weights = paired.patient_weights({0: first, 1: second}, replicates=50)
    np.testing.assert_array_equal(weights[0][:, 0], weights[1][:, 0])
    total = weights[0].sum(axis=1) + weights[1][:, 1]
    np.testing.assert_array_equal(total, np.full(50, 3))
    unnamed = table(prob, y, ("", ""))
    own = paired.patient_weights({0: unnamed}, replicates=50)[0]
    assert (own[:, 0] != own[:, 1]).any()


def test_copies_do_not_differ():
    rng = np.random.default_rng(0)
    y = grades(rng, 60)
    cells = {(0, 0): simulated(rng, y, 1.0, 0)}
    weights = paired.patient_weights({0: cells[0, 0]}, replicates=100)
    drawn = paired.replicates(cells, weights)
    for metric in paired.METRICS:
        found = paired.difference(drawn, drawn, metric)
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def draw(rng, skills, *, regions=60, replicates=200):
    """Differences of methods with these skills to one of skill 1, on new patients."""
    y = {fold: grades(rng, regions) for fold in (0, 1)}
    made = [
        {(0, fold): simulated(rng, y[fold], skill, fold) for fold in (0, 1)}
        for skill in (1.0, *skills)
    ]
    weights = paired.patient_weights(
        {fold: made[0][0, fold] for fold in (0, 1)},
        replicates=replicates,
        seed=int(rng.integers(2**31)),
    )
    first, *others = (paired.replicates(cells, weights) for cells in made)
    return {
        metric: paired.corrected(
            {
                str(i): paired.difference(one, first, metric)
                for i, one in enumerate(others)
            }
        )
        for metric in ("auc", "accuracy")
    }


@pytest.mark.slow  # 2,400 bootstraps: 20 s
def test_false_positives_over_200_draws():
    """Five methods of equal skill: few differ, and corrected ones hardly ever.

    At a true level of 5%, 1,000 comparisons have 50 false positives; those of one draw
    are dependent, and 100 would be four standard deviations even if all five of a draw
    were the same one. Of 200 draws 10 have a corrected one; 23 is four deviations.
    """
    rng = np.random.default_rng(11)
    single = dict.fromkeys(("auc", "accuracy"), 0)
    any_corrected = dict.fromkeys(single, 0)
    for _ in range(200):
        for metric, found in draw(rng, (1.0,) * 5).items():
            apart = [one for one in found.values() if not one.low <= 0 <= one.high]
            single[metric] += len(apart)
            any_corrected[metric] += any(one.p_holm <= 0.05 for one in found.values())
    assert all(10 <= count <= 100 for count in single.values()), single
    assert all(count <= 23 for count in any_corrected.values()), any_corrected


def test_a_planted_difference_is_found():
    """A method at chance among four of equal skill, in five draws."""
    rng = np.random.default_rng(12)
    skills = (0.0, 1.0, 1.0, 1.0, 1.0)
    found = [draw(rng, skills, regions=200)["auc"] for _ in range(5)]
    assert all(one["0"].value < -0.05 for one in found)
    assert all(one["0"].p_holm <= 0.05 for one in found)
    others = [one[name].p_holm <= 0.05 for one in found for name in "1234"]
    assert sum(others) <= 2


def test_holm_by_hand():
    """Ordered 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1; then the running maximum."""
    assert paired.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx(
        [0.06, 0.04, 0.06, 0.06]
    )
    assert paired.holm([0.6, 0.4]) == pytest.approx([0.8, 0.8])
    assert paired.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert paired.holm([]) == []


def test_cells_without_a_partner_are_left_out():
    rng = np.random.default_rng(1)
    y = {fold: grades(rng, 20) for fold in (0, 1)}
    whole = {(0, k): simulated(rng, y[k], 1.0, k) for k in (0, 1)}
    weights = paired.patient_weights({k: whole[0, k] for k in (0, 1)}, replicates=20)
    part = paired.replicates({(0, 1): whole[0, 1]}, weights)
    both = paired.replicates(whole, weights)
    assert paired.difference(part, both, "auc").cells == 1
    other = paired.replicates({(7, 1): whole[0, 1]}, weights)
    assert paired.difference(other, both, "auc") is None
