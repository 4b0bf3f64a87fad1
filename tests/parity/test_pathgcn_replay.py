"""PathGCN against the recording of the published code, and against wrong readings.

Tolerances are those of the replay itself (parity/rows/pathgcn.py): step 0 and
evaluation 2e-5 of the array's maximum, losses and gradients 1e-5, parameters 5e-5
absolute. The logits of the right reading deviate by less than 2e-6, those of a wrong
one by `least`, about half of what the recordings' description measured.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.data.graphs import padding
from fof_jax.models import graph
from fof_jax.parity import comparison
from fof_jax.parity.rows import pathgcn

GOLDEN = Path(__file__).parents[1] / "golden" / "methods" / "pathgcn_a.npz"


@pytest.fixture(scope="module")
def z():
    return comparison.load(GOLDEN)


def test_the_recording_replays(z):
    assert pathgcn.recognizes(z)
    rows = pathgcn.replay(z)
    failed = [row for row in rows if not row.ok]
    assert not failed, comparison.table("pathgcn_a", failed)
    assert len(rows) == 35


def test_names_of_parameters_survive_the_way_there_and_back(z):
    named = pathgcn.published_names(pathgcn.parameters_of(z, "init/"))
    recorded = {k[len("init/") :] for k in z if k.startswith("init/")}
    assert set(named) == recorded - set(pathgcn.CONSTANTS)
    for name, value in named.items():
        np.testing.assert_array_equal(value, z[f"init/{name}"])


def test_a_changed_recording_fails(z):
    changed = dict(z) | {"t0/readout2": z["t0/readout2"] + 1e-3}
    assert [r.quantity for r in pathgcn.replay(changed) if not r.ok] == [
        "step 0 readout2"
    ]


# The layers as somebody could misread them; each replaces one function of graph.py.


def _without_length(x, counts, node_mask, *, kernel, bias):
    n = x.shape[1]
    loops = jnp.eye(n)[None] * node_mask[:, :, None]
    counts = counts * (1 - jnp.eye(n)[None]) + loops
    v = counts @ (x @ kernel) / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return jnp.where(node_mask[..., None], v + bias[None, None], 0)


def _gcn(x, counts, *, kernel, root_kernel, root_bias):
    counts = counts + jnp.eye(x.shape[1])[None]
    scale = jax.lax.rsqrt(counts.sum(-1))
    return (
        scale[..., None] * (counts @ (scale[..., None] * (x @ kernel)))
        + (root_bias[None, None])
    )


def _mean_score(x, counts, *, kernel, root_kernel, root_bias):
    mean = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return x @ root_kernel + root_bias[None, None] + mean @ (x @ kernel)


def _no_loops_in_score(x, counts, **weights):
    return graph_conv(x, counts * (1 - jnp.eye(x.shape[1]))[None], **weights)


def _no_tanh(x, raw_score, counts, node_mask, *, ratio):
    keep = graph.highest(raw_score, node_mask, ratio=ratio)
    x = jnp.where(keep[..., None], x * raw_score[..., None], 0)
    return x, graph.between(counts, keep), keep


def _floor(nodes, ratio):
    return jnp.maximum(nodes // 5, 1)


def _mean_first(x, node_mask):
    return jnp.roll(readout(x, node_mask), x.shape[-1], axis=-1)


def _reversed(edge_index, node_mask):
    return adjacency(edge_index[:, ::-1], node_mask)


def _per_graph(x, node_mask, *, columns, over):
    return divide_by_maximum(x, node_mask, columns=columns, over="graph")


graph_conv, readout, adjacency = graph.graph_conv, graph.readout, graph.adjacency
divide_by_maximum = graph.divide_by_maximum


def _logits(z):
    padded = padding.pad(pathgcn.split(z, "batch0/"), bucket=16)
    # A new function each time, because the compiled one would not see the mistake.
    apply = jax.jit(lambda *inputs: pathgcn.network(z).apply(*inputs)["logits"])
    ours = apply(pathgcn.parameters_of(z, "init/"), *pathgcn.inputs(padded))
    theirs = z["t0/logits"]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_the_right_reading_deviates_by_rounding(z):
    assert _logits(z) < 2e-6


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [
        ("sage_conv", _without_length, 1.0),
        ("graph_conv", _gcn, 0.5),
        ("graph_conv", _mean_score, 0.1),
        ("graph_conv", _no_loops_in_score, 0.05),
        ("adjacency", _reversed, 0.1),
        ("divide_by_maximum", _per_graph, 0.05),
        ("sag_pool", _no_tanh, 5e-3),
        ("kept_count", _floor, 0.03),
        ("readout", _mean_first, 0.1),
    ],
)
def test_a_wrong_reading_is_seen(z, monkeypatch, name, wrong, least):
    monkeypatch.setattr(graph, name, wrong)
    assert _logits(z) > least
