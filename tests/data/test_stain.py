"""Stain normalization against torchstain 1.4.1, and jitter of stains against NumPy."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.data.augment import color
from fof_jax.data.prepare import prepare
from fof_jax.data.stain import macenko
from tests.support.cohort_files import pixels, write_cohort_files
from tests.support.data_verb import call, config_for

# `image` is 48 x 48 pixels of two invented stains and glass; `torchstain_1_4_1` what
# that package's NumPy normalizer makes of it with its own reference.
RECORDED = np.load(Path(__file__).parents[1] / "golden/macenko.npz")


def tissue(stains, side=48, seed=1):
    amounts = np.random.default_rng(seed).gamma(2.0, 0.35, (side, side, 2))
    return np.clip(240 * np.exp(-amounts @ np.array(stains)) - 1, 0, 255).astype(
        np.uint8
    )


def test_macenko_is_torchstains():
    ours = macenko(RECORDED["image"])
    theirs = RECORDED["torchstain_1_4_1"]
    assert np.abs(theirs.astype(int) - RECORDED["image"]).mean() > 20
    # One gray level: float32 against float64 before the fraction is cut off.
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.01


def test_two_laboratories_become_alike():
    one = tissue([[0.6, 0.72, 0.35], [0.15, 0.9, 0.4]])
    other = tissue([[0.45, 0.75, 0.5], [0.3, 0.85, 0.3]])  # the same amounts
    before = np.abs(one.astype(int) - other).mean()
    after = np.abs(macenko(one).astype(int) - macenko(other)).mean()
    assert before > 6
    assert after < before / 4


@pytest.mark.parametrize(
    "image",
    [
        np.full((32, 32, 3), 245, np.uint8),  # glass
        np.zeros((32, 32, 3), np.uint8),  # no light at all
        np.full((32, 32, 3), (180, 90, 160), np.uint8),  # one color
        np.repeat(pixels(0, 32, 32)[..., :1], 3, axis=2) // 2,  # gray
    ],
    ids=["glass", "black", "one color", "gray"],
)
def test_images_without_two_stains_stay_as_they_are(image):
    np.testing.assert_array_equal(macenko(image), image)


def test_larger_images_are_judged_by_a_part_of_their_pixels():
    small = tissue([[0.6, 0.72, 0.35], [0.15, 0.9, 0.4]], side=300)
    large = np.kron(small, np.ones((3, 3, 1), np.uint8))  # above the sample's size
    again = macenko(large)[::3, ::3].astype(int)
    assert np.abs(again - macenko(small)).mean() < 2


def test_the_store_normalizes_where_the_config_asks_for_it(tmp_path):
    write_cohort_files(tmp_path, 4)
    call("build", config_for(tmp_path))
    plain = prepare(config_for(tmp_path))
    normal = prepare(config_for(tmp_path, stain="macenko"))
    assert plain.table_hash == normal.table_hash  # the same splits
    np.testing.assert_array_equal(normal.read(1, 20), macenko(pixels(1)))
    assert np.abs(normal.read(1, 20).astype(int) - plain.read(1, 20)).mean() > 3
    with pytest.raises(ValueError, match="data.stain='vahadane': expected one of none"):
        prepare(config_for(tmp_path, stain="vahadane"))


# --- jitter in optical density ----------------------------------------------------


def test_restain_scales_each_stains_density():
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = np.random.default_rng(0).uniform(0, 0.6, (7, 9, 3))
    image = np.exp(-amounts @ vectors)
    factors = np.array([1.3, 0.8, 1.1])
    ours = color.restain(
        jnp.asarray(image, jnp.float32), jnp.asarray(factors, jnp.float32)
    )
    theirs = np.exp(-(amounts * factors) @ vectors)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_restain_leaves_white_and_identity_alone():
    image = jnp.asarray(pixels(0, 8, 8), jnp.float32) / 255
    image = image.at[0].set(1.0)
    same = color.restain(image, jnp.ones(3))
    np.testing.assert_allclose(same, jnp.maximum(image, 1 / 255), atol=2e-6)
    other = color.restain(image, jnp.array([1.4, 0.6, 1.0]))
    np.testing.assert_allclose(other[0], 1.0, atol=2e-6)
    black = color.restain(jnp.zeros((2, 2, 3)), jnp.array([1.4, 0.6, 1.0]))
    assert jnp.isfinite(black).all()
