"""The graph builder on drawn nuclei: columns, texture, neighbors, components.

Columns of a drawn disk agree with geometry to 2 %, its length to 6 % (scikit-image's
estimate counts the steps of the raster); texture agrees with scikit-image to 1e-6;
edges and components are exact, against all pairs.
"""

import numpy as np
import pytest

from fof_jax.data.graphs import builder, record

try:
    import skimage  # noqa: F401
except ImportError:
    skimage = None
needs_scikit_image = pytest.mark.skipif(
    skimage is None, reason="scikit-image, the extra `graphs`, is not installed"
)

HEMATOXYLIN, BACKGROUND = (90, 60, 140), (235, 200, 220)
# x, y, radius
NUCLEI = [(40, 40, 9), (80, 44, 10), (120, 60, 9), (60, 90, 11), (110, 120, 10),
          (30, 130, 9), (150, 150, 12), (76, 140, 9)]  # fmt: skip


def render(nuclei=NUCLEI, size=190):
    row, column = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for number, (x, y, radius) in enumerate(nuclei, 1):
        labels[(column - x) ** 2 + (row - y) ** 2 <= radius**2] = number
    noise = np.random.default_rng(0).integers(-6, 7, (size, size, 3))
    rgb = np.where(labels[..., None] > 0, HEMATOXYLIN, BACKGROUND) + noise
    return rgb.astype(np.uint8), labels


@needs_scikit_image
def test_drawn_nuclei_are_found_where_they_are():
    rgb, labels = render()
    segmented = builder.segment(rgb)
    assert segmented.max() == len(NUCLEI)
    overlap = (segmented > 0) & (labels > 0)
    assert overlap.sum() / ((segmented > 0) | (labels > 0)).sum() > 0.8
    graph = builder.build(rgb)
    nearest = np.abs(graph.centroid[:, None] - np.array(NUCLEI)[None, :, :2])
    assert nearest.max(-1).min(0).max() < 1.5


@needs_scikit_image
def test_touching_nuclei_are_divided():
    rgb, _ = render([(60, 60, 12), (80, 60, 12), (120, 120, 10)])
    assert builder.segment(rgb).max() == 3


@needs_scikit_image
def test_areas_outside_the_limits_are_dropped_and_labels_are_consecutive():
    rgb, _ = render()
    segmented = builder.segment(rgb, smallest=300)
    area = np.bincount(segmented.ravel())[1:]
    assert (area >= 300).all()
    assert 0 < len(area) < len(NUCLEI)
    assert builder.segment(rgb, smallest=10**6, largest=10**7).max() == 0


@needs_scikit_image
def test_columns_of_a_disk():
    rgb, labels = render([(95, 95, 30)])
    x, centroid = builder.columns(rgb, labels)
    column = dict(zip(record.CONTOUR + record.TEXTURE, x[0], strict=True))
    np.testing.assert_array_equal(centroid, [[95, 95]])
    assert column["area"] == (labels > 0).sum()
    assert column["short_axis"] == pytest.approx(60, rel=0.02)
    assert column["long_axis"] == pytest.approx(60, rel=0.02)
    assert column["arc_length"] == pytest.approx(2 * np.pi * 30, rel=0.06)
    assert column["roundness"] == pytest.approx(1, rel=0.06)
    assert column["solidity"] > 0.95
    assert column["eccentricity"] < 0.1


@needs_scikit_image
def test_texture_is_that_of_scikit_image():
    from skimage.color import rgb2gray
    from skimage.feature import graycomatrix, graycoprops

    rgb, labels = render()
    x, centroid = builder.columns(rgb, labels)
    gray = (rgb2gray(rgb) * 255).astype(np.uint8) // 8
    for row, (cx, cy) in zip(x, centroid, strict=True):
        top, left = (min(max(round(float(c)) - 32, 0), 190 - 64) for c in (cy, cx))
        pairs = graycomatrix(
            gray[top : top + 64, left : left + 64], [1], [0], levels=32
        )
        expected = [
            graycoprops(pairs, name)[0, 0]
            for name in ("dissimilarity", "homogeneity", "energy", "ASM")
        ]
        np.testing.assert_allclose(row[8:], expected, rtol=1e-6)


@needs_scikit_image
def test_a_label_map_of_any_numbering_takes_the_place_of_the_segmentation():
    rgb, labels = render()
    spread = np.where(labels > 0, labels * 7 + 3, 0).astype(np.int64)
    first, second = builder.build(rgb, labels), builder.build(rgb, spread)
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.edge_index, second.edge_index)
    assert first.names == record.CONTOUR + record.TEXTURE


@needs_scikit_image
def test_small_objects_and_small_images_give_finite_columns():
    rgb = np.full((20, 30, 3), 200, np.uint8)
    labels = np.zeros((20, 30), np.int32)
    labels[3, 4] = 1
    labels[10:12, 8] = 2
    graph = builder.build(rgb, labels)
    assert len(graph.x) == 2
    one = builder.build(rgb, np.where(labels == 1, 1, 0))
    assert one.x.shape == (1, 12)
    assert one.edge_index.shape == (2, 0)


@needs_scikit_image
def test_a_region_without_nuclei_is_refused():
    blank = np.full((64, 64, 3), 220, np.uint8)
    with pytest.raises(ValueError, match="no nucleus in the region"):
        builder.build(blank)


def test_wrong_inputs_are_refused():
    rgb, labels = render()
    with pytest.raises(ValueError, match="expected uint8"):
        builder.segment(rgb.astype(np.float32) / 255)
    with pytest.raises(ValueError, match="label map"):
        builder.columns(rgb, labels[:-1])
    with pytest.raises(ValueError, match="label map"):
        builder.columns(rgb, labels - 1)


def test_a_missing_scikit_image_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "skimage.color", None)
    with pytest.raises(ValueError, match=r"pip install 'fof-jax\[graphs\]'"):
        builder.segment(render()[0])


@pytest.mark.parametrize("neighbors", [1, 4])
def test_neighbors_are_the_nearest_of_all_pairs_both_ways(neighbors):
    centroid = np.random.default_rng(1).uniform(0, 100, (60, 2)).astype(np.float32)
    distance = ((centroid[:, None] - centroid[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, 1)[:, :neighbors]
    expected = {(i, j) for i, row in enumerate(near.tolist()) for j in row}
    expected |= {(j, i) for i, j in expected}
    edges = builder.nearest_neighbors(centroid, neighbors=neighbors)
    assert edges.T.tolist() == sorted(map(list, expected))


def test_coinciding_and_few_nuclei_have_no_loops():
    same = np.zeros((7, 2), np.float32)
    edges = builder.nearest_neighbors(same)
    assert (edges[0] != edges[1]).all()
    assert np.bincount(edges[0]).min() >= 4
    assert builder.nearest_neighbors(same[:1]).shape == (2, 0)
    assert builder.nearest_neighbors(same[:2]).tolist() == [[0, 1], [1, 0]]


def test_the_largest_component_is_kept():
    edges = np.array([[0, 1, 2, 3, 3, 4], [1, 0, 3, 2, 4, 3]], np.int32)
    keep = builder.largest_component(edges, 6)
    np.testing.assert_array_equal(keep, [False, False, True, True, True, False])
