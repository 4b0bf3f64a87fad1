"""MaxNet and its layers against plain NumPy, published counts, initializations.

Tolerances: 1e-5 of the largest magnitude in float32; moments of 2e5 draws to 2%.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.models.dropout import ALPHA, AlphaDropout, Dropout
from fof_jax.models.linear import Bilinear, Linear
from fof_jax.models.omics import MaxNet
from tests.support import initial


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("features", "rectify", "expected"), [(32, False, 11_027), (128, True, 14_483)]
)
def test_published_parameter_counts(features, rectify, expected):
    network = MaxNet(features, rectify=rectify)
    params = initial.of_module(network, jnp.zeros((1, 80)), train=False)["params"]
    assert count(params) == expected


@pytest.mark.parametrize("rectify", [False, True])
def test_evaluation_is_a_plain_loop(rectify):
    network = MaxNet(6, 3, rectify=rectify, widths=(5, 4))
    omics = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    params = initial.of_module(network, jnp.asarray(omics), train=False)["params"]
    x = omics.astype(np.float64)
    for i in range(3):
        layer = params[f"hidden_{i}"]
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    x = np.maximum(x, 0) if rectify else x
    last = params["classifier"]
    logits = x @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    out = network.apply({"params": params}, jnp.asarray(omics), train=False)
    np.testing.assert_allclose(out.features, x, atol=1e-5)
    np.testing.assert_allclose(out.logits, logits, atol=1e-5)


def test_alpha_dropout_keeps_mean_and_variance():
    x = jax.random.normal(jax.random.key(0), (200_000,))
    out = AlphaDropout(0.3).apply(
        {}, x, train=True, rngs={"dropout": jax.random.key(1)}
    )
    assert abs(float(out.mean())) < 0.02
    assert abs(float(out.var()) - 1) < 0.02
    dropped = np.unique(np.asarray(out), return_counts=True)
    assert dropped[1].max() == pytest.approx(0.3 * x.size, rel=0.02)
    a = (0.7 + ALPHA**2 * 0.3 * 0.7) ** -0.5
    assert dropped[0][dropped[1].argmax()] == pytest.approx(
        a * -ALPHA + a * ALPHA * 0.3, rel=1e-5
    )


@pytest.mark.parametrize("layer", [Dropout, AlphaDropout])
def test_no_dropout_without_training_or_rate(layer):
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(layer(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(layer(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize("layer", [Dropout, AlphaDropout])
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses_an_impossible_rate(layer, rate):
    with pytest.raises(ValueError, match="expected 0 <= rate < 1"):
        layer(rate).apply({}, jnp.ones((2,)), train=True)


def test_dropout_scales_what_it_keeps():
    out = Dropout(0.25).apply(
        {}, jnp.ones((4000,)), train=True, rngs={"dropout": jax.random.key(0)}
    )
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert float((out == 0).mean()) == pytest.approx(0.25, abs=0.03)


def test_linear_initializations():
    x = jnp.zeros((1, 400))
    for scheme, kernel_std, bias in (
        ("uniform", 1 / 20 / np.sqrt(3), None),
        ("normal", 1 / 20, 0.0),
        ("he", np.sqrt(2) / 20, 0.1),
    ):
        layer = Linear(300, scheme, 0.0 if bias is None else bias)
        params = layer.init(jax.random.key(0), x)["params"]
        assert float(params["kernel"].std()) == pytest.approx(kernel_std, rel=0.02)
        if bias is None:
            assert 0.04 < float(jnp.abs(params["bias"]).max()) <= 1 / 20
            assert float(jnp.abs(params["kernel"]).max()) <= 1 / 20
        else:
            np.testing.assert_array_equal(params["bias"], np.float32(bias))


def test_linear_refuses_an_unknown_scheme():
    with pytest.raises(ValueError, match="expected one of uniform, normal, he"):
        Linear(2, "max").init(jax.random.key(0), jnp.zeros((1, 2)))


def test_bilinear_is_a_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    layer = Bilinear(5)
    params = layer.init(jax.random.key(0), jnp.asarray(a), jnp.asarray(b))["params"]
    expected = np.zeros((2, 5))
    for n in range(2):
        for o in range(5):
            for i in range(3):
                for j in range(4):
                    expected[n, o] += a[n, i] * params["kernel"][i, j, o] * b[n, j]
            expected[n, o] += params["bias"][o]
    out = layer.apply({"params": params}, jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    # Weights and bias are drawn from U(±1/sqrt(3)), by the first input's width.
    assert float(jnp.abs(params["kernel"]).max()) <= 1 / np.sqrt(3)
    assert float(jnp.abs(params["bias"]).max()) > 0
