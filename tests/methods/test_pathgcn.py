"""PathGCN as a method: normalizations, two devices, what is missing.

Two devices agree with one to 2e-5 of the tensor's maximum, float32 rounding of
differently ordered sums.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fof_jax.data import column_statistics
from fof_jax.data.graphs import padding, record
from fof_jax.methods import pathgcn
from fof_jax.types import Batch, DatasetInfo, StepContext

COLUMNS, B = 14, 4
INFO = DatasetInfo(("II", "III", "IV"), (), ())


def method(normalization, dropout=0.25):
    config = ConfigDict(
        {
            "pathgcn": {
                "columns": COLUMNS, "width": 8, "features": 5, "ratio": 0.2,
                "dropout": dropout, "normalization": normalization,
            }
        }
    )  # fmt: skip
    return pathgcn.build(config, INFO)


def graphs():
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(COLUMNS)]
    return [
        record.create(
            rng.uniform(1, 9, (n, COLUMNS)), rng.integers(0, n, (2, 3 * n)),
            np.zeros((n, 2)), names,
        )
        for n in (5, 9, 13, 16)
    ]  # fmt: skip


def batch(made=None):
    made = graphs() if made is None else made
    none = np.zeros((len(made), 0), np.float32)
    rows = np.arange(len(made), dtype=np.int32)
    data = Batch(
        image=None,
        grade=rows % 3,
        biomarkers=none.astype(np.int32),
        known=none.astype(bool),
        floats=none,
        index=rows,
        epoch=0 * rows,
        valid=rows >= 0,
        graph=padding.pad(made, bucket=16),
    )
    return jax.tree.map(jnp.asarray, data)


def frozen():
    return {
        "columns": column_statistics.measure(graph.x for graph in graphs())._asdict()
    }


def context(gather=lambda a: a):
    return StepContext(jax.random.key(3), jnp.int32(1), jnp.float32(0.5), gather)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", pathgcn.NORMALIZATIONS)
def test_two_devices_compute_what_one_computes(normalization):
    row = method(normalization)
    variables = row.init(jax.random.key(0), batch(), frozen())
    data = batch()

    def loss(params, rows, gather=lambda a: a):
        return row.loss(variables.replace(params=params), rows, context(gather))[0]

    def local(params, rows):
        gather = lambda a: jax.lax.all_gather(a, "batch", tiled=True)  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params, rows, gather)
        return value, jax.lax.pmean(gradient, "batch")

    one, gradient = jax.jit(jax.value_and_grad(loss))(variables.params, data)
    halves = jax.tree.map(lambda a: a.reshape(2, B // 2, *a.shape[1:]), data)
    two, other = jax.pmap(local, "batch", in_axes=(None, 0))(variables.params, halves)
    np.testing.assert_allclose(two, [one, one], rtol=1e-6)

    def close(a, b):
        assert np.abs(a[0] - b).max() <= 2e-5 * max(float(np.abs(b).max()), 1e-4)

    jax.tree.map(close, other, gradient)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", pathgcn.NORMALIZATIONS)
def test_company_matters_only_as_published(normalization):
    row = method(normalization)
    variables = row.init(jax.random.key(0), batch(), frozen())
    together = row.apply(variables, batch()).logits
    alone = jnp.concatenate([row.apply(variables, batch([g])).logits for g in graphs()])
    same = np.abs(together - alone).max() < 1e-6
    assert same == (normalization != "batch")


def test_what_is_missing_or_wrong_is_named():
    row = method("fold")
    with pytest.raises(ValueError, match="statistics of the fold's columns"):
        jax.eval_shape(row.init, jax.random.key(0), batch(), None)
    without = batch().replace(graph=None)
    with pytest.raises(ValueError, match="no graphs"):
        jax.eval_shape(row.init, jax.random.key(0), without, frozen())
    other = batch().graph._replace(x=jnp.zeros((B, 16, 3)))
    with pytest.raises(ValueError, match="columns=3"):
        jax.eval_shape(
            row.init, jax.random.key(0), batch().replace(graph=other), frozen()
        )
    with pytest.raises(ValueError, match="expected one of fold, graph, batch"):
        method("region")
