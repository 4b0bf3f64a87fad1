"""Patch features are standardized by the patches of the training fold alone.

References are NumPy's mean and std in float64; 1e-5 is float32 of sums.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fof_jax.configs import slides
from fof_jax.data.bags import padding
from fof_jax.data.bags.index import BagIndex
from fof_jax.data.bags.reading import BagValues
from fof_jax.methods.base import standardize
from fof_jax.training import bag_features
from fof_jax.types import Batch

COUNTS = (3, 1, 7, 4, 9)
TRAIN = np.array([4, 0, 2])
RNG = np.random.default_rng(0)
BAGS = [
    BagValues(
        RNG.normal(40, 3, (n, 6)).astype(np.float32), np.zeros((n, 2), np.float32)
    )
    for n in COUNTS
]


class Index(BagIndex):
    def read(self, i):
        READ.append(i)
        return BAGS[i]


INDEX, READ = Index(()), []


def test_training_patches_have_mean_0_and_deviation_1_and_padding_stays_0():
    frozen = bag_features.fold_constants(slides.get_config(), INDEX, TRAIN)
    x = np.concatenate([BAGS[i].features for i in TRAIN]).astype(np.float64)
    bag = padding.pad([BAGS[i] for i in (1, 2)], 8)
    ours = standardize(Batch(image=None, bag=bag), frozen).bag
    for row, i in enumerate((1, 2)):
        expected = (BAGS[i].features - x.mean(0)) / x.std(0)
        np.testing.assert_allclose(
            ours.features[row, : COUNTS[i]], expected, rtol=1e-5, atol=1e-4
        )
        assert not jnp.any(ours.features[row, COUNTS[i] :])
    np.testing.assert_array_equal(ours.coords, bag.coords)


def test_of_many_bags_evenly_spaced_ones_are_read(monkeypatch):
    monkeypatch.setattr(bag_features, "MOST_BAGS", 2)
    READ.clear()
    bag_features.fold_constants(slides.get_config(), INDEX, TRAIN)
    assert READ == [0, 4]


@pytest.mark.parametrize("images", [True, False])
def test_images_and_runs_without_it_have_no_statistics(images):
    index = None if images else INDEX
    # The second is a config file of an earlier version.
    for bags in ({"standardize": False}, {}):
        config = ConfigDict({} if images else {"bags": bags})
        assert bag_features.fold_constants(config, index, TRAIN) == {}
    bag = padding.pad(BAGS[:1], 8)
    same = standardize(Batch(image=None, bag=bag), {}).bag
    np.testing.assert_array_equal(same.features, bag.features)
