"""Folds: grouped, stratified, reproducible, and refused where they leak."""

import json

import numpy as np
import pytest
from sklearn.model_selection import KFold

from fof_jax.data.errors import DataWarning
from fof_jax.data.splits import (
    SplitError,
    leak_share,
    make_splits,
    read_splits,
    write_splits,
)
from tests.support.metadata import columns


def test_patient_keeps_patients_together_and_tests_everything_once():
    table = columns()
    splits = make_splits(table, scheme="patient", folds=5, seed=42)
    tested = np.concatenate([test for _, test in splits.folds])
    assert sorted(tested) == list(range(60))
    for train, test in splits.folds:
        assert sorted([*train, *test]) == list(range(60))
        owners = [{table.patients[i] for i in side} for side in (train, test)]
        assert not owners[0] & owners[1]
        # 20 patients in 5 folds: 7, 7, 6 patients a class cannot be split more evenly.
        assert np.bincount(table.grades[test], minlength=3).min() >= 3
    assert leak_share(splits, table.patients) == 0


def test_the_seed_fixes_the_folds():
    table = columns()
    first, same, other = (make_splits(table, folds=5, seed=s) for s in (1, 1, 2))
    for a, b in zip(first.folds, same.folds, strict=True):
        np.testing.assert_array_equal(a[1], b[1])
    assert any(
        a[1].tolist() != b[1].tolist()
        for a, b in zip(first.folds, other.folds, strict=True)
    )


def test_roi_is_kfold_over_regions_and_its_leak_is_counted():
    table = columns()
    splits = make_splits(table, scheme="roi", folds=5, seed=7)
    rule = KFold(5, shuffle=True, random_state=7).split(np.arange(60))
    leaked = 0
    for (train, test), (wanted_train, wanted_test) in zip(
        splits.folds, rule, strict=True
    ):
        np.testing.assert_array_equal(train, wanted_train)
        np.testing.assert_array_equal(test, wanted_test)
        owners = {table.patients[i] for i in train}
        leaked += sum(table.patients[i] in owners for i in test)
    assert leaked > 30
    assert leak_share(splits, table.patients) == leaked / 60


def test_the_leak_of_the_published_structure_is_about_69_percent():
    # 664 patients, 1,325 regions: 289 have 1, 271 have 2, 52 have 3, 52 share 338.
    counts = [1] * 289 + [2] * 271 + [3] * 52 + [7] * 26 + [6] * 26
    patients = tuple(f"P{p}" for p, count in enumerate(counts) for _ in range(count))
    assert (len(counts), len(patients)) == (664, 1325)
    n = len(patients)
    table = columns(n, grades=[0] * n)
    splits = make_splits(table, scheme="roi", folds=5, seed=0)
    assert leak_share(splits, patients) == pytest.approx(0.69, abs=0.03)


def test_own_folds():
    table = columns(12, folds=[i % 3 for i in range(12)])
    splits = make_splits(table, scheme="fold", folds=3, seed=0)
    assert [test.tolist() for _, test in splits.folds] == [
        [0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]
    ]  # fmt: skip
    with pytest.raises(SplitError, match="holds 0, 1, 2; expected 0 … 4"):
        make_splits(table, scheme="fold", folds=5, seed=0)
    with pytest.raises(SplitError, match="has none"):
        make_splits(columns(12), scheme="fold", folds=3, seed=0)


def test_too_few_patients():
    with pytest.raises(SplitError, match="folds=5 with 4 patients"):
        make_splits(columns(12), folds=5)
    with pytest.raises(SplitError, match="expected one of patient"):
        make_splits(columns(), scheme="slide")
    with pytest.warns(DataWarning, match="5 folds in class II: 4"):
        make_splits(columns(36, grades=[0] * 12 + [1] * 24), folds=5)
    with pytest.raises(SplitError, match="no class has as many regions"):
        make_splits(columns(9, per_patient=1, grades=[0, 1, 2] * 3), folds=4)


def test_what_is_written_reads_back(tmp_path):
    table, path = columns(), tmp_path / "splits.json"
    splits = make_splits(table, folds=4, seed=3)
    write_splits(path, splits, table)
    again = read_splits(path, table)
    assert (again.scheme, again.seed, again.table_hash) == (
        "patient", 3, table.table_hash
    )  # fmt: skip
    for a, b in zip(splits.folds, again.folds, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    document = json.loads(path.read_text())
    side = document["folds"][1]["test"]
    train, test = splits.folds[1]
    assert side["images"] == [f"{i:03d}.png" for i in test]
    assert side["regions"] == len(test)
    assert sum(side["classes"].values()) == len(test)
    assert document["leak_share"] == 0


def test_a_changed_table_is_noticed(tmp_path):
    table, path = columns(), tmp_path / "splits.json"
    write_splits(path, make_splits(table, folds=4), table)
    changed = columns(grades=[2] + [p // 3 % 3 for p in range(1, 60)])
    with pytest.raises(SplitError, match="belongs to another table"):
        read_splits(path, changed)
    with pytest.raises(SplitError, match="belongs to another table"):
        write_splits(path, make_splits(table, folds=4), changed)


def test_leaks_are_refused(tmp_path):
    table, path = columns(), tmp_path / "splits.json"
    write_splits(path, make_splits(table, folds=4), table)
    document = json.loads(path.read_text())
    sides = document["folds"][0]
    moved = sides["test"]["images"].pop()
    sides["train"]["images"].append(moved)
    path.write_text(json.dumps(document))
    with pytest.raises(
        SplitError, match=f"1 patients.*{table.patients[int(moved[:3])]}"
    ):
        read_splits(path, table)
    sides["test"]["images"].append(moved)
    path.write_text(json.dumps(document))
    with pytest.raises(SplitError, match="1 images on both sides"):
        read_splits(path, table)
    document["scheme"] = "roi"  # allows patients on both sides
    sides["test"]["images"].remove(moved)
    path.write_text(json.dumps(document))
    assert read_splits(path, table).scheme == "roi"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scheme": "roi"', "[1"])
def test_files_that_are_no_splits(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(SplitError, match="not a file of splits"):
        read_splits(path, columns())
    with pytest.raises(SplitError, match="cannot be read"):
        read_splits(tmp_path / "none.json", columns())
