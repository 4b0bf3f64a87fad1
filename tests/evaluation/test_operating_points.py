"""Operating points against cases counted by hand."""

import numpy as np
import pytest

from fof_jax.evaluation.operating_points import at_specificity

# Ten rows without the class, four with it. By hand, at p >= t:
#   t = 0.9: 1 of 4 found, 0 of 10 wrong; 0.7: 2 of 4, 1 of 10 (0.8);
#   0.5: 3 of 4, 2 of 10 (0.8, 0.6); 0.2: 4 of 4, 4 of 10 (0.8, 0.6, 0.4, 0.3).
YES = [0.9, 0.7, 0.5, 0.2]
NO = [0.8, 0.6, 0.4, 0.3, 0.15, 0.1, 0.1, 0.05, 0.0, 0.0]


@pytest.mark.parametrize(
    ("target", "threshold", "tp", "fp"),
    [
        (0.95, 0.9, 1, 0),
        (0.9, 0.7, 2, 1),  # 1 of 10 equals 1 - 0.9 despite rounding
        (0.85, 0.7, 2, 1),
        (0.8, 0.5, 3, 2),
        (0.6, 0.2, 4, 4),
        (0.3, 0.2, 4, 4),  # all found: no further false positives
    ],
)
def test_points_are_those_counted_by_hand(target, threshold, tp, fp):
    positive = np.array([True] * 4 + [False] * 10)
    order = np.random.default_rng(0).permutation(14)
    point = at_specificity(positive[order], np.array(YES + NO)[order], target)
    assert point == {
        "threshold": threshold,
        "sensitivity": tp / 4,
        "specificity": pytest.approx(1 - fp / 10),
        "tp": tp,
        "fn": 4 - tp,
        "tn": 10 - fp,
        "fp": fp,
    }


def test_a_tie_between_classes_has_no_threshold():
    point = at_specificity(np.array([True, False]), np.array([0.5, 0.5]), 0.9)
    assert (point["threshold"], point["tp"], point["tn"]) == (None, 0, 1)


def test_a_class_that_does_not_occur_has_no_point():
    point = at_specificity(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]), 0.9)
    assert set(point.values()) == {None}
    with pytest.raises(ValueError, match="between 0 and 1"):
        at_specificity(np.array([True, False]), np.array([0.1, 0.2]), 90.0)
