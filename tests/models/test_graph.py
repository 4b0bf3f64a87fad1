"""Graph layers and PathGCN against a loop over nodes and edges in NumPy float64.

Tolerances: forward 1e-5 and gradients of permuted or padded graphs 2e-5, both of the
array's maximum, which is float32 rounding of sums of up to 40 terms.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.models import graph, pathgcn
from tests.support.compiled import run

TOLERANCE = 1e-5


def close(ours, theirs, tolerance=TOLERANCE):
    scale = max(float(np.abs(theirs).max(initial=0.0)), 1e-12)
    assert np.abs(np.asarray(ours) - theirs).max(initial=0.0) <= tolerance * scale


def random_graph(rng, nodes, features, *, loops=True):
    """Features and directed edges [2, E], with self loops and repeats."""
    x = rng.normal(size=(nodes, features)).astype(np.float32)
    edges = rng.integers(0, nodes, (2, 4 * nodes))
    if not loops:
        edges = edges[:, edges[0] != edges[1]]
    return x, edges


def padded(graphs, nodes, edges=256):
    b, f = len(graphs), graphs[0][0].shape[1]
    x = np.zeros((b, nodes, f), np.float32)
    edge_index = np.full((b, 2, edges), nodes, np.int32)
    mask = np.zeros((b, nodes), bool)
    for i, (features, e) in enumerate(graphs):
        x[i, : len(features)] = features
        edge_index[i, :, : e.shape[1]] = e
        mask[i, : len(features)] = True
    return jnp.asarray(x), jnp.asarray(edge_index), jnp.asarray(mask)


def loop_forward(params, x, edges, ratio=0.2):
    """One graph of PathGCN, node by node; returns its logits and readouts."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x, edges = x.astype(np.float64), [tuple(e) for e in edges.T]
    total = 0.0
    for layer in (1, 2, 3):
        conv, pool = p[f"conv{layer}"], p[f"pool{layer}"]
        u = x @ conv["kernel"]
        h = np.zeros_like(u)
        for i in range(len(x)):
            senders = [j for j, k in edges if k == i and j != i] + [i]
            v = np.mean([u[j] for j in senders], axis=0) + conv["bias"]
            h[i] = v / max(np.linalg.norm(v), 1e-12)
        h = np.maximum(h, 0)
        score = np.zeros(len(x))
        for i in range(len(x)):
            root = h[i] @ pool["root_kernel"][:, 0] + pool["root_bias"][0]
            received = sum(h[j] @ pool["kernel"][:, 0] for j, k in edges if k == i)
            score[i] = np.tanh(root + received)
        k = -(-len(x) * round(ratio * 10) // 10)
        keep = sorted(sorted(range(len(x)), key=lambda i: -score[i])[:k])
        x = h[keep] * score[keep, None]
        place = {node: position for position, node in enumerate(keep)}
        edges = [(place[j], place[i]) for j, i in edges if j in place and i in place]
        total = total + np.concatenate([x.max(0), x.mean(0)])
    z = np.maximum(total @ p["lin1"]["kernel"] + p["lin1"]["bias"], 0)
    feature = np.maximum(z @ p["lin2"]["kernel"] + p["lin2"]["bias"], 0)
    return feature @ p["lin3"]["kernel"] + p["lin3"]["bias"], total


@pytest.fixture(scope="module")
def net():
    return pathgcn.PathGCN(features=6, width=8, feature_width=5)


@pytest.fixture(scope="module")
def params(net):
    @jax.jit
    def drawn():
        params = net.init(jax.random.key(0))
        noise = iter(jax.random.split(jax.random.key(1), 100))
        return jax.tree.map(
            lambda a: a + 0.1 * jax.random.normal(next(noise), a.shape), params
        )

    return drawn()


def test_a_batch_equals_the_loop_graph_by_graph(net, params):
    rng = np.random.default_rng(0)
    graphs = [random_graph(rng, n, 6) for n in (1, 4, 5, 6, 17, 40)]
    out = jax.jit(net.apply)(params, *padded(graphs, 48))
    for b, (x, edges) in enumerate(graphs):
        logits, readouts = loop_forward(params, x, edges)
        close(out["readout_sum"][b], readouts)
        close(out["logits"][b], logits)


def test_order_of_nodes_and_edges_does_not_matter(net, params):
    rng = np.random.default_rng(1)
    x, edges = random_graph(rng, 23, 6)
    new = rng.permutation(23)  # node i of the second graph is node new[i]
    moved = np.argsort(new)[edges][:, rng.permutation(edges.shape[1])]

    @jax.jit
    def run(params, graphs):
        loss = lambda p: net.apply(p, *graphs)["logits"][0, 1]  # noqa: E731
        return jax.value_and_grad(loss)(params)

    first, gradient = run(params, padded([(x, edges)], 32))
    second, other = run(params, padded([(x[new], moved)], 32))
    close(second, np.asarray(first))
    jax.tree.map(lambda a, b: close(a, np.asarray(b), 2e-5), gradient, other)


def test_padding_does_not_matter(net, params):
    graphs = [random_graph(np.random.default_rng(2), n, 6) for n in (9, 14)]

    @jax.jit
    def run(params, inputs):
        loss = lambda p: net.apply(p, *inputs)["logits"][:2].sum()  # noqa: E731
        return jax.value_and_grad(loss)(params)

    tight = run(params, padded(graphs, 14, 64))
    x, edge_index, mask = padded([*graphs, (np.zeros((0, 6)), np.zeros((2, 0)))], 40)
    # What stands in padding is not read.
    x = np.where(mask[..., None], x, np.float32(7))
    beside = np.array([40, -1, 99], np.int32)[:, None, None]
    edge_index = np.where(np.asarray(edge_index) == 40, beside, edge_index)
    wide = run(params, (x, edge_index, mask))
    jax.tree.map(lambda a, b: close(a, np.asarray(b), 2e-5), wide, tight)


def test_a_graph_without_nodes_gives_finite_values_and_gradients(net, params):
    inputs = padded([(np.zeros((0, 6)), np.zeros((2, 0)))], 8)
    loss = lambda params: net.apply(params, *inputs)["logits"].sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((value, gradient)))


def test_a_graph_of_3000_nodes_takes_less_than_a_gigabyte():
    """By the compiler's account, at the published widths; nothing is computed."""
    net = pathgcn.PathGCN(features=12)
    shape = jax.ShapeDtypeStruct
    params = jax.eval_shape(net.init, jax.random.key(0))
    inputs = (
        shape((1, 3072, 12), jnp.float32),
        shape((1, 2, 8 * 3072), jnp.int32),
        shape((1, 3072), jnp.bool_),
    )

    def loss(params, *graphs):
        return net.apply(params, *graphs)["logits"].sum()

    program = jax.jit(jax.grad(loss)).lower(params, *inputs).compile()
    memory = program.memory_analysis()
    assert 3072**2 * 4 < memory.temp_size_in_bytes < 2**30


def test_zero_features_and_zero_weights_give_finite_gradients(net, params):
    zeros = jax.tree.map(np.zeros_like, params)
    inputs = padded([(np.zeros((5, 6)), np.array([[0, 1], [1, 0]]))], 8)
    loss = lambda p: net.apply(p, *inputs)["logits"].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(zeros)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_sage_conv_by_hand():
    # Means of a path with x = 1, 2, 3 are 1.5, 2 and 2.5.
    x = jnp.array([[[1.0], [2.0], [3.0]]])
    mask = jnp.ones((1, 3), bool)
    counts = run(graph.adjacency, jnp.array([[[0, 1, 1, 2], [1, 0, 2, 1]]]), mask)
    conv = {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.array([0.0, 1.0])}
    h = run(graph.sage_conv, x, counts, mask, **conv)
    v = np.array([[1.5, 1], [2, 1], [2.5, 1]])
    close(h[0], v / np.linalg.norm(v, axis=1, keepdims=True))
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    close(run(graph.sage_conv, x, counts, mask, **one)[0], np.ones((3, 1)))


def test_a_self_loop_counts_once_in_sage_conv_and_as_an_edge_in_graph_conv():
    x = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    mask = jnp.ones((1, 2), bool)
    once = run(graph.adjacency, jnp.array([[[0, 1], [1, 0]]]), mask)
    loop = run(graph.adjacency, jnp.array([[[0, 1, 0, 0], [1, 0, 0, 0]]]), mask)
    conv = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    close(run(graph.sage_conv, x, loop, mask, **conv),
          np.asarray(run(graph.sage_conv, x, once, mask, **conv)))  # fmt: skip
    weights = {"kernel": jnp.ones((2, 1)), "root_kernel": jnp.zeros((2, 1)),
               "root_bias": jnp.zeros(1)}  # fmt: skip
    close(run(graph.graph_conv, x, once, **weights)[0, :, 0], np.array([1.0, 1.0]))
    close(run(graph.graph_conv, x, loop, **weights)[0, :, 0], np.array([3.0, 1.0]))


def test_edges_point_from_the_first_row_to_the_second():
    mask = jnp.ones((1, 3), bool)
    counts = run(graph.adjacency, jnp.array([[[0, 0, 0], [1, 1, 2]]]), mask)
    np.testing.assert_array_equal(counts[0], [[0, 0, 0], [2, 0, 0], [1, 0, 0]])


def test_kept_count_is_an_exact_ceiling():
    nodes = np.arange(1, 3000)
    ours = run(graph.kept_count, nodes, ratio=0.2)
    np.testing.assert_array_equal(ours, (nodes + 4) // 5)
    np.testing.assert_array_equal(
        run(graph.kept_count, jnp.array([3, 10]), ratio=0.7), [3, 7]
    )


def test_of_nodes_with_equal_neighborhoods_either_may_be_kept(net, params):
    # A complete graph of 6 equal nodes: all are alike, two are kept.
    x = np.ones((6, 6), np.float32)
    edges = np.array([(j, i) for i in range(6) for j in range(6) if i != j]).T
    out = jax.jit(net.apply)(params, *padded([(x, edges)], 8))
    assert int(out["keep1"].sum()) == 2
    pooled = np.asarray(out["pool1"][0])[np.asarray(out["keep1"][0])]
    np.testing.assert_array_equal(pooled[0], pooled[1])
    close(out["readout1"][0, :8], np.asarray(out["readout1"][0, 8:]))


def test_maximum_of_a_batch_and_of_a_graph():
    x = jnp.array([[[2.0, 0.0, 5.0], [4.0, 0.0, 1.0]], [[8.0, 0.0, 3.0], [99, 99, 99]]])
    mask = jnp.array([[True, True], [True, False]])
    batch = run(graph.divide_by_maximum, x, mask, columns=2, over="batch")
    each = run(graph.divide_by_maximum, x, mask, columns=2, over="graph")
    np.testing.assert_array_equal(batch[:, :, 0], [[0.25, 0.5], [1, 0]])
    np.testing.assert_array_equal(each[:, :, 0], [[0.5, 1], [1, 0]])
    # A column of zeros stays 0 (P6), and other columns are not divided.
    np.testing.assert_array_equal(each[..., 1:], [[[0, 5], [0, 1]], [[0, 3], [0, 0]]])
    with pytest.raises(ValueError, match="expected 'graph' or 'batch'"):
        run(graph.divide_by_maximum, x, mask, columns=2, over="fold")


def test_the_published_widths_have_the_published_number_of_parameters():
    params = jax.eval_shape(pathgcn.PathGCN(features=1036).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 203_654


def test_initial_values_are_distributed_as_published():
    params = run(pathgcn.PathGCN(features=400, width=256).init, jax.random.key(3))
    for name, fan_in in (("conv1", 400), ("conv2", 256)):
        for leaf in params[name].values():
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(leaf).max() <= bound
            assert float(leaf.std()) == pytest.approx(bound / np.sqrt(3), rel=0.1)
    assert float(params["lin1"]["kernel"].std()) == pytest.approx(512**-0.5, rel=0.05)
    assert not params["lin1"]["bias"].any()
    assert not params["pool1"]["root_bias"].any()


def test_dropout_keeps_the_expectation_and_is_off_in_evaluation(params):
    net = pathgcn.PathGCN(features=6, width=8, feature_width=5, dropout=0.25)
    inputs = padded([random_graph(np.random.default_rng(4), 11, 6)], 16)
    apply = jax.jit(net.apply)
    out = apply(params, *inputs)
    # Before the second ReLU the head is linear in the dropped entries.
    linear = jax.tree.map(jnp.asarray, params)
    linear["lin2"] = linear["lin2"] | {"bias": linear["lin2"]["bias"] + 100}

    @jax.jit
    @jax.vmap
    def feature(key):
        return net.apply(linear, *inputs, dropout_keys=key[None])["feature"][0]

    drawn = feature(jax.random.split(jax.random.key(5), 4000))
    samples = np.asarray(drawn, np.float64)
    error = samples.std(0) / np.sqrt(4000)
    expected = np.asarray(apply(linear, *inputs)["feature"])[0]
    assert (np.abs(samples.mean(0) - expected) < 5 * error + 1e-4).all()
    hidden = np.unique(samples[:, 0]).size
    assert 1 < hidden <= 2**8
    np.testing.assert_array_equal(out["logits"], apply(params, *inputs)["logits"])
