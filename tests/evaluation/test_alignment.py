"""Silhouette and probe of biomarkers, against plain loops and on cases by hand."""

import numpy as np
import pytest

from fof_jax.evaluation import alignment


def test_silhouette_against_a_loop():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 5))
    values = np.array([0] * 5 + [1] * 4 + [2] * 3)

    def distance(i, j):
        a, b = features[i], features[j]
        return 1 - a @ b / np.sqrt((a @ a) * (b @ b))

    each = []
    for i in range(12):
        own = [j for j in range(12) if values[j] == values[i] and j != i]
        within = np.mean([distance(i, j) for j in own])
        other = min(
            np.mean([distance(i, j) for j in range(12) if values[j] == value])
            for value in range(3)
            if value != values[i]
        )
        each.append((other - within) / max(other, within))
    # float64 in another order
    found = alignment.silhouette(features, values)
    assert found == pytest.approx(np.mean(each), abs=1e-9)


def test_silhouette_of_groups_that_are_apart_and_of_none():
    features = np.array([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    assert alignment.silhouette(features, np.array([0, 0, 1, 1])) > 0.99
    assert alignment.silhouette(features, np.array([0, 1, 0, 1])) < 0
    assert alignment.silhouette(features, np.array([0, 0, 0, 0])) is None
    assert alignment.silhouette(features, np.arange(4)) is None


def test_probe_finds_what_is_linear_and_keeps_patients_together():
    rng = np.random.default_rng(1)
    values = np.repeat([0, 1], 30)
    features = rng.standard_normal((60, 4))
    patients = [f"p{i // 3}" for i in range(60)]
    features[:, 2] += 12 * values
    assert alignment.linear_probe(features, values, patients) == 1
    # A mark of each patient tells nothing of a patient who is not in training.
    marks = np.eye(20)[np.repeat(np.arange(20), 3)]
    of_patient = np.repeat(rng.permutation(20) % 2, 3)
    assert alignment.linear_probe(marks, of_patient, patients) <= 0.6


def test_probe_needs_patients_of_every_status():
    features = np.random.default_rng(2).standard_normal((9, 2))
    patients = [f"p{i}" for i in range(9)]
    few = np.array([0] * 7 + [1] * 2)
    assert alignment.linear_probe(features, few, patients) is None
    assert alignment.linear_probe(features, np.zeros(9, int), patients) is None
