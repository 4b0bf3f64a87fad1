"""Validation rows: by patient, of each grade, from training rows, in splits.json."""

import dataclasses
import json

import numpy as np
import pytest

from fof_jax.data.splits import SplitError, make_splits, read_splits, write_splits
from fof_jax.data.validation import draw, with_validation
from tests.support.metadata import columns


def patients_of(table, rows):
    return {table.patients[i] for i in rows}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("scheme", ["patient", "roi"])
def test_patients_of_every_grade_leave_the_training_rows(fraction, scheme):
    table = columns()
    splits = make_splits(table, scheme=scheme, folds=3, seed=42)
    made = with_validation(splits, table, fraction=fraction, seed=42)
    for k, (train, test) in enumerate(splits.folds):
        rest, drawn = made.folds[k][0], made.validation[k]
        np.testing.assert_array_equal(made.folds[k][1], test)
        np.testing.assert_array_equal(np.sort([*rest, *drawn]), train)
        assert not patients_of(table, rest) & patients_of(table, drawn)
        expected = max(3, round(fraction * len(patients_of(table, train))))
        assert len(patients_of(table, drawn)) == expected
        # A class may miss its share of the drawn patients by less than one.
        for grade in range(3):
            of = [
                patients_of(table, r[table.grades[r] == grade]) for r in (train, drawn)
            ]
            share = expected / len(patients_of(table, train))
            assert (
                max(1, len(of[0]) * share - 1) <= len(of[1]) <= len(of[0]) * share + 1
            )


def test_the_seed_fixes_the_draw():
    table, rows = columns(), np.arange(60)
    first, same, other = (draw(table, rows, fraction=0.2, seed=s)[1] for s in (1, 1, 2))
    assert first.tolist() == same.tolist() != other.tolist()


def test_the_only_patient_of_a_grade_is_trained_on():
    table = columns()
    grades = np.minimum(table.grades, 1)
    alone = np.array(table.patients) == table.patients[0]
    table = dataclasses.replace(table, grades=np.where(alone, 2, grades))
    for seed in range(5):
        rest, drawn = draw(table, np.arange(60), fraction=0.4, seed=seed)
        assert set(np.flatnonzero(alone)) <= set(rest.tolist())
        assert set(table.grades[drawn]) == {0, 1}


def test_too_few_patients_are_refused():
    table = columns()
    rows = np.concatenate([np.flatnonzero(table.grades == k)[:1] for k in range(3)])
    with pytest.raises(SplitError, match="validation lower, or 0"):
        draw(table, rows, fraction=0.2, seed=1)
    with pytest.raises(SplitError, match=r"validation=0.95 would draw"):
        draw(table, np.arange(60), fraction=0.95, seed=1)


def test_the_file_has_them_and_gives_them_back(tmp_path):
    table, path = columns(), tmp_path / "splits.json"
    plain = make_splits(table, folds=3, seed=42)
    assert with_validation(plain, table, fraction=0.0, seed=42) is plain
    made = with_validation(plain, table, fraction=0.2, seed=42)
    write_splits(path, made, table)
    document = json.loads(path.read_text())
    assert [set(fold) for fold in document["folds"]] == [
        {"fold", "train", "validation", "test"}
    ] * 3
    again = read_splits(path, table)
    for k in range(3):
        np.testing.assert_array_equal(again.validation[k], made.validation[k])
        np.testing.assert_array_equal(again.folds[k][0], made.folds[k][0])
    assert with_validation(again, table, fraction=0.3, seed=7) is again
    with pytest.raises(SplitError, match="validation is 0"):
        with_validation(again, table, fraction=0.0, seed=42)


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_file_whose_validation_leaks_is_refused(tmp_path, side):
    table, path = columns(), tmp_path / "splits.json"
    made = with_validation(
        make_splits(table, folds=3, seed=42), table, fraction=0.2, seed=42
    )
    write_splits(path, made, table)
    document = json.loads(path.read_text())
    fold = document["folds"][1]
    fold["validation"]["images"].append(fold[side]["images"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(SplitError, match="fold 1 has 1 images on both sides"):
        read_splits(path, table)
    del fold["validation"]
    path.write_text(json.dumps(document))
    with pytest.raises(SplitError, match="not a file of splits"):
        read_splits(path, table)
