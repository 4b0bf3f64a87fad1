"""Records of cell graphs: validation, files, padding to buckets, standardization.

Everything is exact but the statistics, which agree with NumPy's float64 to 1e-6.
"""

import dataclasses

import numpy as np
import pytest

from fof_jax.data import column_statistics
from fof_jax.data.graphs import padding, record


def make(nodes, seed=0, columns=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(100, 3, (nodes, columns))
    edges = rng.integers(0, nodes, (2, 4 * nodes))
    names = [f"c{i}" for i in range(columns)]
    return record.create(x, edges, rng.uniform(0, 64, (nodes, 2)), names)


def test_a_file_gives_back_the_graph_and_equal_graphs_equal_bytes(tmp_path):
    graph = make(9)
    path = tmp_path / "graph.npz"
    path.write_bytes(record.encode(graph))
    read = record.read(path)
    for field in ("x", "edge_index", "centroid"):
        np.testing.assert_array_equal(getattr(read, field), getattr(graph, field))
        assert getattr(read, field).dtype == getattr(graph, field).dtype
    assert read.names == graph.names
    assert record.encode(read) == path.read_bytes()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "graph.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as a cell graph"):
        record.read(path)
    np.savez(path, x=np.array([{}]), edge_index=0, centroid=0, names=0)
    with pytest.raises(ValueError, match="cannot be read as a cell graph"):
        record.read(path)
    path.write_bytes(record.encode(make(3))[:-40])
    with pytest.raises(ValueError, match="cannot be read as a cell graph"):
        record.read(path)
    with pytest.raises(FileNotFoundError):
        record.read(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edge_index": np.array([[0], [9]], np.int32)}, "edges run from"),
        ({"edge_index": np.array([[-1], [0]], np.int32)}, "edges run from"),
        ({"x": np.full((9, 3), np.nan, np.float32)}, "not finite"),
        ({"centroid": np.zeros((8, 2), np.float32)}, r"expected \(2, E\)"),
        ({"names": ("a",)}, "1 names for 3 columns"),
    ],
)
def test_graphs_that_do_not_fit_together_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(make(9), **change)


def test_an_edge_beyond_32_bits_is_refused_and_not_wrapped():
    with pytest.raises(ValueError, match="no positions of nodes"):
        record.create(
            np.zeros((2, 1)), np.array([[2**32], [0]]), np.zeros((2, 2)), ["c"]
        )


def test_padding_fills_a_bucket_and_keeps_the_graphs():
    graphs = [make(5, 1), make(17, 2)]
    padded = padding.pad(graphs, bucket=16)
    assert padded.x.shape == (2, 32, 3)
    assert padded.edge_index.shape == (2, 2, 8 * 32)
    for b, graph in enumerate(graphs):
        n, e = len(graph.x), graph.edge_index.shape[1]
        np.testing.assert_array_equal(padded.x[b, :n], graph.x)
        np.testing.assert_array_equal(padded.edge_index[b, :, :e], graph.edge_index)
        assert padded.node_mask[b].tolist() == [True] * n + [False] * (32 - n)
        assert (padded.edge_index[b, :, e:] == 32).all()
        assert not padded.x[b, n:].any()


def test_graphs_of_one_bucket_have_one_shape_and_dense_ones_still_fit():
    shapes = {padding.pad([make(n)], bucket=16).edge_index.shape for n in (1, 7, 16)}
    assert shapes == {(1, 2, 128)}
    dense = record.create(
        np.zeros((4, 1)), np.zeros((2, 300), int), np.zeros((4, 2)), ["c"]
    )
    assert padding.pad([dense], bucket=16).edge_index.shape == (1, 2, 384)


def test_padding_refuses_what_it_cannot_stack():
    with pytest.raises(ValueError, match="different columns"):
        padding.pad([make(3), make(3, columns=4)])
    with pytest.raises(ValueError, match="0 graphs"):
        padding.pad([])


def test_statistics_are_those_of_all_nodes_and_constant_columns_stay():
    graphs = [make(40, 1), make(90, 2)]
    x = np.concatenate([graph.x for graph in graphs]).astype(np.float64)
    statistics = column_statistics.measure(graph.x for graph in graphs)
    np.testing.assert_allclose(statistics.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, x.std(0), rtol=1e-6)
    constant = record.create(
        np.full((6, 1), 0.1), np.zeros((2, 0)), np.zeros((6, 2)), ["c"]
    )
    assert column_statistics.measure([constant.x]).std == 1
    with pytest.raises(ValueError, match="no row"):
        column_statistics.measure([])


def test_standardized_columns_have_mean_0_and_deviation_1_and_padding_stays_0():
    graphs = [make(40, 1), make(90, 2)]
    padded = padding.pad(graphs, bucket=32)
    ours = padding.standardize(padded, column_statistics.measure([g.x for g in graphs]))
    x = ours.x[ours.node_mask]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-4)
    assert not ours.x[~ours.node_mask].any()


def test_tokens_are_those_of_the_patch_at_the_centroid():
    graph = dataclasses.replace(
        make(3), centroid=np.array([[0, 0], [33, 8], [64, 64]], np.float32)
    )
    tokens = np.arange(4 * 4 * 2, dtype=np.float32).reshape(4, 4, 2)
    ours = record.append_tokens(graph, tokens, size=(64, 64))
    np.testing.assert_array_equal(ours.x[:, 3:], [[0, 1], [4, 5], [30, 31]])
    assert ours.names[3:] == ("token_0", "token_1")
