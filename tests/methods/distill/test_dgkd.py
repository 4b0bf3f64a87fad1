"""DGKD's mean teacher: its loss by hand, two devices, what is tested, what is cut.

Two devices agree with one to 1e-5 of the largest entry; batch statistics of both are
those of the global batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fof_jax.methods.distill import dgkd, dgkd_network
from tests.methods.distill import networks
from tests.support import initial


class Encoder(nn.Module):
    """Flattened pixels."""

    def __call__(self, image, *, train):
        del train
        return image.reshape(image.shape[0], -1)


def build(rate=0.0, cut=True, **options):
    network = dgkd_network.network(
        encoder=Encoder(),
        num_classes=3,
        features=6,
        fused=5,
        rate=rate,
        cut_gradient=cut,
        widths=(7, 6, 5),
    )
    return dgkd.DGKD(network=network, classes=3, **options)


@pytest.fixture(scope="module")
def started():
    method = build(independent_average=True)
    free = {"batch_stats", "average"}
    return method, initial.filled(method, networks.batch(), independent=free)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def branches(method, params, statistics, image):
    """Logits of the branches in training."""
    out, _ = dgkd_network.forward_train(
        method.network,
        params,
        statistics,
        image,
        networks.batch().omics,
        lambda x: x,
        jax.random.key(0),
    )
    return dgkd_network.branch_logits(out)


def test_the_loss_is_the_sum_over_three_branches(started):
    method, variables = started
    whole = networks.batch()
    value, _, _, metrics = networks.one_device(method, variables, whole, 0)
    average = variables.state["average"]
    outs = []
    for params, statistics, image in (
        (variables.params, variables.state["batch_stats"], whole.image),
        (average["params"], average["batch_stats"], whole.second_view),
    ):
        outs.append(branches(method, params, statistics, image))
    wanted = 0.0
    for name in ("fuse", "image", "omics"):
        p, q = softmax(np.asarray(outs[0][name])), softmax(np.asarray(outs[1][name]))
        ce = -np.mean([np.log(p[b, g]) for b, g in enumerate(whole.grade)])
        kd = np.mean((q * np.log(q / p)).sum(axis=1))
        np.testing.assert_allclose(metrics[f"ce_{name}"], ce, rtol=1e-5)
        np.testing.assert_allclose(metrics[f"kd_{name}"], kd, rtol=1e-4)
        wanted += ce + kd
    leaves = jax.tree.leaves(variables.params["omics_network"])
    l1 = sum(float(np.abs(leaf).sum()) for leaf in leaves)
    np.testing.assert_allclose(value, wanted + 3e-4 * l1, rtol=1e-5)


def test_the_penalty_counts_biases_and_the_branch_classifier(started):
    _, variables = started
    branch = jax.tree.map(np.ones_like, variables.params["omics_network"])
    params = {**variables.params, "omics_network": branch}
    size = sum(leaf.size for leaf in jax.tree.leaves(branch))
    assert dgkd_network.omics_l1(params) == size
    kernels = sum(leaf.size for leaf in jax.tree.leaves(branch) if leaf.ndim > 1)
    assert size > kernels


def test_two_devices_give_the_loss_gradient_and_state_of_one(started):
    method, variables = started
    whole = networks.batch()
    value, g, state, _ = networks.one_device(method, variables, whole, 2)
    values, gs, states, _ = networks.two_devices(method, variables, whole, 2)
    np.testing.assert_allclose(values, value, rtol=1e-6)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(g))
    for ours, theirs in zip(jax.tree.leaves(gs), jax.tree.leaves(g), strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=1e-5 * largest)
    for ours, theirs in zip(
        jax.tree.leaves(states), jax.tree.leaves(state), strict=True
    ):
        assert np.array_equal(ours[0], ours[1])
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [True, False])
def test_the_cut_keeps_the_fusions_gradient_from_both_encoders(started, cut):
    _, variables = started
    method = build(cut=cut)
    whole = networks.batch()

    def fused(params):
        out, _ = dgkd_network.forward_train(
            method.network,
            params,
            variables.state["batch_stats"],
            whole.image,
            whole.omics,
            lambda x: x,
            jax.random.key(0),
        )
        return out.fused.logits.sum()

    g = jax.device_get(jax.jit(jax.grad(fused))(variables.params))
    for branch in ("projection", "omics_network"):
        some = any(leaf.any() for leaf in jax.tree.leaves(g[branch]))
        assert some != cut
    assert any(leaf.any() for leaf in jax.tree.leaves(g["fusion"]))


def test_evaluation_uses_running_statistics_and_one_row_at_a_time(started):
    method, variables = started
    whole = networks.batch()
    apply = jax.jit(method.apply)
    together = jax.device_get(apply(variables, whole))
    alone = apply(variables, jax.tree.map(lambda x: np.asarray(x)[:1], whole))
    np.testing.assert_allclose(alone.logits, together.logits[:1], rtol=1e-4, atol=1e-6)
    assert together.features.shape == (8, 5)
    trained, state = jax.device_get(
        jax.jit(lambda v: method.apply_train(v, whole, lambda x: x, jax.random.key(0)))(
            variables
        )
    )
    assert np.abs(trained.logits - together.logits).max() > 1e-3
    before, after = variables.state["batch_stats"], state["batch_stats"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved))


def test_the_average_or_the_model_is_tested(started):
    method, variables = started
    whole = networks.batch()
    average = jax.jit(build(evaluated="average").apply)(variables, whole)
    apply = jax.jit(method.apply)
    assert np.abs(average.logits - apply(variables, whole).logits).max() > 1e-3
    swapped = variables.replace(
        params=variables.state["average"]["params"],
        state={"batch_stats": variables.state["average"]["batch_stats"]},
    )
    np.testing.assert_allclose(average.logits, apply(swapped, whole).logits)


def test_the_average_copies_parameters_after_step_0_and_no_statistics(started):
    method, variables = started
    update = jax.jit(method.update_state)
    state = update(variables, jnp.asarray(0))
    for a, b in zip(
        jax.tree.leaves(state["average"]["params"]),
        jax.tree.leaves(variables.params),
        strict=True,
    ):
        assert np.array_equal(a, b)
    marked = variables.replace(
        state=variables.state
        | {"batch_stats": jax.tree.map(lambda x: x + 1, variables.state["batch_stats"])}
    )
    kept = update(marked, jnp.asarray(0))["average"]["batch_stats"]
    for a, b in zip(
        jax.tree.leaves(kept),
        jax.tree.leaves(variables.state["average"]["batch_stats"]),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_the_average_has_no_gradient(started):
    method, variables = started
    whole = networks.batch()

    def loss(params):
        average = variables.state["average"] | {"params": params}
        state = variables.state | {"average": average}
        moved = variables.replace(state=state)
        return method.loss(moved, whole, networks.context(1))[0]

    g = jax.device_get(jax.jit(jax.grad(loss))(variables.state["average"]["params"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(g))


def test_missing_omics_and_view_are_refused(started):
    method, variables = started
    with pytest.raises(ValueError, match="no omics"):
        method.apply(variables, networks.batch().replace(omics=None))
    with pytest.raises(ValueError, match="no second view"):
        method.loss(variables, networks.batch(second_view=False), networks.context())
