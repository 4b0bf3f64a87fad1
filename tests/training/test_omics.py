"""Statistics of omics against plain loops over training patients; 1e-6 relative."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.base import Inputs, standardize
from fof_jax.training import omics
from fof_jax.types import Batch
from tests.support.metadata import columns

NAN = float("nan")
# Patient B has two regions; C is in the test fold, and its outlier must not count.
PATIENTS = ("A", "B", "B", "C", "D")
VALUES = np.float32(
    [[1, 5, NAN, 0], [4, 5, NAN, 2], [4, 5, NAN, 2], [900, 7, 1, 9], [NAN, 5, NAN, 4]]
)
TRAIN = np.array([4, 0, 1, 2])
READS = Inputs(train=("image", "omics"), test=("image",))


def data(values=VALUES):
    table = columns(n=len(PATIENTS))
    names = ("a", "b", "c", "d") if values is not None else ()
    return dataclasses.replace(table, patients=PATIENTS, omic_names=names, omics=values)


def test_each_training_patient_counts_once():
    found = omics.fold_constants(READS, data(), TRAIN)["omics"]
    for column in range(4):
        known = [
            float(VALUES[row, column])
            for row in (0, 1, 4)  # one region of A, B and D
            if not math.isnan(VALUES[row, column])
        ]
        mean = sum(known) / len(known) if known else 0.0
        variance = sum((v - mean) ** 2 for v in known) / max(len(known), 1)
        assert found["mean"][column] == pytest.approx(mean, rel=1e-6)
        assert found["std"][column] == pytest.approx(
            math.sqrt(variance) if variance else 1.0, rel=1e-6
        )
    np.testing.assert_allclose(found["median"], [2.5, 5, 0, 2], rtol=1e-6)


def test_unknown_entries_become_the_mean_and_are_marked():
    frozen = omics.fold_constants(READS, data(), TRAIN)
    batch = standardize(Batch(image=None, omics=jnp.asarray(VALUES)), frozen)
    np.testing.assert_array_equal(batch.omics_known, np.isfinite(VALUES))
    np.testing.assert_array_equal(np.asarray(batch.omics)[np.isnan(VALUES)], 0)
    np.testing.assert_allclose(batch.omics[0, 0], (1 - 2.5) / 1.5, rtol=1e-6)


def test_a_method_that_reads_no_omics_has_no_constants():
    image_only = Inputs(train=("image",), test=("image",))
    assert omics.fold_constants(image_only, data(None), TRAIN) == {}
    omics.require_inputs(image_only, data(None), "vit")


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="'sp' reads omics, and the table has no"):
        omics.require_inputs(READS, data(None), "sp")
    at_test = Inputs(train=("omics",), test=("omics",))
    empty = VALUES.copy()
    empty[3] = NAN
    with pytest.raises(ValueError, match="needs omics at test .*1 patients.*: C"):
        omics.require_inputs(at_test, data(empty), "omics")
