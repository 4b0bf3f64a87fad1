"""Gaps of float markers: filled by the median over patients, and said."""

import dataclasses
import io

import numpy as np
import pytest

from fof_jax.data.cohort import read_cohort
from fof_jax.data.errors import CohortError, DataWarning
from fof_jax.data.impute import fill_floats
from fof_jax.data.store import build_store, open_store
from tests.support.cohort_files import BIOMARKERS, CLASSES, write_cohort_files


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    table = write_cohort_files(folder, 10)  # P000 P000 P001 P001 …
    cohort = read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)
    build_store(cohort, directory=folder / "data", name="cohort", image_size=20)
    return open_store(folder / "data", "cohort")


def with_floats(store, *columns):
    names = tuple("abc"[: len(columns)])
    floats = np.array(columns, np.float32).T
    return dataclasses.replace(store, float_markers=names, floats=floats)


def test_a_gap_takes_the_median_over_patients(plain):
    nan = np.nan
    # Patients have 1, 1 | 4, 4 | 9, - | -, - | -, -: the median is 4 (regions': 4).
    # Counted by region 0, 0 | 6, - | 8, … would give 3, not 6.
    store = with_floats(
        plain, [1, 1, 4, 4, 9] + [nan] * 5, [0, 0, 6, nan, 8] + [nan] * 5, range(10)
    )
    with pytest.warns(
        DataWarning, match=r"a in 5 of 10 regions \(4\), b in 6"
    ) as caught:
        filled = fill_floats(store)
    assert " c in" not in str(caught[0].message)
    want = np.array(
        [[1, 1, 4, 4, 9, 4, 4, 4, 4, 4], [0, 0, 6, 6, 8, 6, 6, 6, 6, 6], range(10)]
    )
    np.testing.assert_array_equal(filled.floats, want.T)
    assert filled.table_hash == store.table_hash
    assert np.isnan(store.floats).sum() == 11  # the store that came is as it was


def test_without_gaps_nothing_happens(plain):
    assert fill_floats(plain) is plain
    whole = with_floats(plain, range(10))
    assert fill_floats(whole) is whole


def test_a_marker_that_nobody_has(plain):
    store = with_floats(plain, [1.0] * 10, [np.nan] * 10)
    with pytest.raises(CohortError, match="b is unknown in all 10 regions"):
        fill_floats(store)


def test_the_markers_of_the_phantom_reach_the_batch(tmp_path):
    from fof_jax.cli import config
    from fof_jax.data import loader, prepare

    words = ["--config=phantom:release", f"--config.data.dir={tmp_path}"]
    made = prepare.prepare(
        config.load([*words, "--config.data.regions=6"]), out=io.StringIO()
    )
    batches = loader.eval_batches(made, range(6), batch_size=6, image_size=64)
    batch = next(batches)
    assert batch.floats.shape == (6, 4)
    assert np.isfinite(batch.floats).all()
    assert np.ptp(batch.floats) > 0
