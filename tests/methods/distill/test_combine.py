"""Weighting rules against loops in float64, to 1e-6, and their misreadings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import combine, ema, weighting

# Gradients e1, e2, e1 + e2, -e1 of four terms, and e1 of the cross-entropy.
EXAMPLE = jnp.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [-1, 0, 0], [1, 0, 0.0]])[:, None]


def cosine(a, b):
    size = np.sqrt((a**2).sum()) * np.sqrt((b**2).sum())
    return 0.0 if size == 0 else float((a * b).sum() / size)


@pytest.fixture
def gradients():
    g = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    g[2] += 0.8 * g[3]
    return g


def test_the_example_has_the_published_weights():
    np.testing.assert_allclose(
        combine.cosine_sums(EXAMPLE, scaled=True)[:4],
        [6.8284271, 6.8284271, 9.6568542, -6.8284271],
        rtol=1e-6,
    )
    assert combine.agrees_batch(EXAMPLE).tolist() == [True, False, True, False]
    counts = combine.agreement_counts(EXAMPLE, threshold=0.25)
    assert counts[:4].tolist() == [3, 2, 4, 1]


def test_cosine_sums_are_the_loop(gradients):
    wanted = [
        3 * sum(cosine(a, b) for b in gradients) for a in gradients.astype(np.float64)
    ]
    ours = combine.cosine_sums(jnp.asarray(gradients), scaled=True)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    without_ce = [3 * sum(cosine(a, b) for b in gradients[:-1]) for a in gradients[:-1]]
    assert np.abs(ours[:-1] - np.asarray(without_ce)).max() > 1e-2
    without_self = np.asarray(wanted) - 3
    assert np.abs(ours - without_self).max() > 1


def test_the_factor_is_the_number_of_terms(gradients):
    two = jnp.asarray(gradients[[0, 2, 3]])
    plain = combine.cosine_sums(two, scaled=False)
    np.testing.assert_allclose(combine.cosine_sums(two, scaled=True), 2 * plain)


def test_masks_of_samples_are_the_loop(gradients):
    gradients[1, 2] = 0  # no gradient, no agreement
    gradients[3, 4] = 0
    ours = combine.agrees_sample(jnp.asarray(gradients))
    assert ours.shape == (5, 3)
    for b in range(5):
        for i in range(3):
            assert bool(ours[b, i]) == (cosine(gradients[i, b], gradients[3, b]) > 0)
    batch = combine.agrees_batch(jnp.asarray(gradients))
    assert not (ours == batch[None]).all()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12])
def test_tiny_and_large_gradients_keep_their_cosines(gradients, size):
    g = jnp.asarray(gradients)
    scaled = g.at[0].multiply(size)
    np.testing.assert_allclose(combine.cosines(scaled), combine.cosines(g), atol=1e-5)


def test_a_term_without_gradient_has_weight_zero(gradients):
    g = jnp.asarray(gradients).at[1].set(0)
    weights = combine.cosine_sums(g, scaled=True)
    assert np.isfinite(weights).all()
    assert weights[1] == 0
    assert combine.agreement_counts(g, threshold=0.1)[1] == 0
    assert not combine.agrees_batch(g)[1]


def test_running_counts_start_with_the_first_and_are_not_reset():
    first, second = jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])
    running = combine.running(jnp.zeros(2), first, momentum=0.5)
    assert running.tolist() == [3, 1]
    running = combine.running(running, second, momentum=0.5)
    assert running.tolist() == [2, 1]
    assert combine.running(running, second, momentum=0.5).tolist() == [1.5, 1]


def test_weights_have_no_gradient(gradients):
    g = jnp.asarray(gradients)
    derivative = jax.grad(lambda g: combine.cosine_sums(g, scaled=True).sum())(g)
    assert not derivative.any()


def test_moving_average_copies_after_step_0_and_then_lags():
    np.testing.assert_allclose(
        [float(ema.alpha(jnp.asarray(t), decay=0.6)) for t in range(4)],
        [0, 0.5, 0.6, 0.6],
        rtol=1e-6,
    )
    average = ema.averaged({"a": 5.0}, {"a": 1.0}, jnp.asarray(0), decay=0.99)
    assert average["a"] == 1
    average = ema.averaged({"a": 5.0}, {"a": 1.0}, jnp.asarray(3), decay=0.99)
    np.testing.assert_allclose(average["a"], 0.75 * 5 + 0.25 * 1)


def test_a_measured_weight_is_half_the_ratio_of_the_first_twenty_batches():
    sums = weighting.unmeasured()
    rng = np.random.default_rng(0)
    kl, r = rng.uniform(1, 2, 30), rng.uniform(3, 4, 30)
    betas = []
    for a, b in zip(kl, r, strict=True):
        beta, sums = weighting.measured(
            sums, divergence=jnp.asarray(a), term=jnp.asarray(b)
        )
        betas.append(float(beta))
    assert betas[:20] == [0] * 20
    np.testing.assert_allclose(
        betas[20:], 0.5 * kl[:20].mean() / r[:20].mean(), rtol=1e-5
    )
    assert sums["batches"] == 20


def test_a_term_that_is_always_zero_gets_no_weight():
    sums = weighting.unmeasured() | {
        "batches": jnp.asarray(20.0),
        "divergence": jnp.asarray(3.0),
    }
    beta, _ = weighting.measured(sums, divergence=jnp.ones(()), term=jnp.zeros(()))
    assert beta == 0


def combined(rule, values, gradients, **options):
    defaults = {"counts": None, "factor": 1.0, "threshold": 0.1, "momentum": 0.5}
    return weighting.combined(
        values, rule=rule, gradients=lambda: gradients, **(defaults | options)
    )


def test_rules_weight_the_terms(gradients):
    g = jnp.asarray(gradients)
    each = [jnp.arange(5.0) + i for i in range(3)]
    means = jnp.stack([v.mean() for v in each])
    total, weights, _ = combined("sum", each, g)
    np.testing.assert_allclose(total, means.sum())
    assert [float(w) for w in weights] == [1, 1, 1]
    total, _, _ = combined("cosine_sums", each, g)
    np.testing.assert_allclose(
        total, combine.cosine_sums(g, scaled=True)[:-1] @ means, rtol=1e-6
    )
    total, _, _ = combined("agrees_batch", each, g, factor=3.0)
    np.testing.assert_allclose(total, 3 * (combine.agrees_batch(g) * means).sum())
    total, weights, _ = combined("agrees_sample", each, g)
    keep = np.asarray(combine.agrees_sample(g))
    np.testing.assert_allclose(total, (keep * np.stack(each, 1)).sum() / 5)
    np.testing.assert_allclose(weights, keep.mean(axis=0))
    total, _, counts = combined("running_counts", each, g, counts=jnp.zeros(4))
    np.testing.assert_allclose(total, counts[:-1] @ means)


def test_masks_of_samples_need_values_of_rows(gradients):
    with pytest.raises(ValueError, match="one value for the batch"):
        combined("agrees_sample", [jnp.ones(())] * 3, jnp.asarray(gradients))
