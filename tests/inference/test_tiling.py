"""Tiling: coverage, overlap, and exact stitching."""

import numpy as np
import pytest

from fof_jax.inference import tiling


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 200), (301, 128)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_cover_the_image_with_the_given_overlap(height, width, overlap):
    side = 64
    corners = tiling.corners(height, width, side, overlap)
    covered = np.zeros((height, width), int)
    for top, left in corners:
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1
    for length in (height, width):
        positions = tiling.starts(length, side, overlap)
        steps = np.diff(positions)
        assert np.all(steps <= side * (1 - overlap) + 1)  # rounding to pixels


def test_stitched_tiles_of_a_map_are_the_map():
    """Tolerance 1e-12: a weighted mean of equal numbers."""
    whole = np.random.default_rng(0).random((90, 130))
    corners = tiling.corners(90, 130, 32)
    parts = [whole[t : t + 32, x : x + 32] for t, x in corners]
    np.testing.assert_allclose(
        tiling.stitch(parts, corners, (90, 130)), whole, atol=1e-12
    )


def test_an_image_smaller_than_a_tile_is_rejected():
    with pytest.raises(ValueError, match="do not fit"):
        tiling.corners(63, 64, 64)
