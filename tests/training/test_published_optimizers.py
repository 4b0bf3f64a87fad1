"""The published optimizers against plain NumPy loops and PyTorch's skipping rule.

Tolerances: parameters 1e-6 absolute after ten steps of float32; rates 5e-5, the digits
of the specification.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.training import published_optimizers as published

BETA1, BETA2, EPS, DECAY, RATE = 0.5, 0.999, 1e-8, 0.1, 0.01


def optimizer(**frozen):
    return published.adam_l2(
        beta1=BETA1,
        beta2=BETA2,
        eps=EPS,
        weight_decay=DECAY,
        frozen_epochs={tuple(k.split("__")): v for k, v in frozen.items()},
    )


def params():
    return {
        "a": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])},
        "b": {"kernel": jnp.array([[3.0]])},
    }


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape).astype(np.float32)), params()
    )


def run(transformation, steps=10):
    p, state = params(), transformation.init(params())
    for step in range(steps):
        direction, state = transformation.update(
            gradients(step), state, p, epoch=jnp.asarray(step)
        )
        p = jax.tree.map(lambda p, d: p - RATE * d, p, direction)
    return p, state


def plain_adam(path, first=0, steps=10):
    """One tensor by a loop that starts at step `first`."""

    def at(tree):
        for key in path:
            tree = tree[key]
        return np.asarray(tree, np.float64)

    p, m, v = at(params()), 0.0, 0.0
    for step in range(first, steps):
        g = at(gradients(step)) + DECAY * p
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        t = step - first + 1
        p = p - RATE * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
    return p


def test_adam_with_l2_is_a_plain_loop():
    found, state = run(optimizer())
    for path in (("a", "kernel"), ("a", "bias"), ("b", "kernel")):
        np.testing.assert_allclose(found[path[0]][path[1]], plain_adam(path), atol=1e-6)
        assert int(state.count[path[0]][path[1]]) == 10


def test_a_frozen_subtree_stays_until_its_epoch_and_then_begins():
    found, state = run(optimizer(a=4))
    np.testing.assert_allclose(found["b"]["kernel"], plain_adam(("b", "kernel")), 1e-5)
    for leaf in ("kernel", "bias"):
        expected = plain_adam(("a", leaf), first=4)
        np.testing.assert_allclose(found["a"][leaf], expected, atol=1e-6)
        assert int(state.count["a"][leaf]) == 6
    early, _ = run(optimizer(a=4), steps=4)
    np.testing.assert_array_equal(early["a"]["kernel"], params()["a"]["kernel"])


def test_a_subtree_may_be_frozen_for_good():
    found, state = run(optimizer(a__kernel=None))
    np.testing.assert_array_equal(found["a"]["kernel"], params()["a"]["kernel"])
    np.testing.assert_allclose(found["a"]["bias"], plain_adam(("a", "bias")), atol=1e-6)
    assert int(state.count["a"]["kernel"]) == 0


def test_a_wrong_step_count_would_be_seen():
    found, _ = run(optimizer(a=4))
    # Averages that started at step 0 with zero gradients: another first step.
    wrong = plain_adam(("a", "kernel"), first=0)
    assert not np.allclose(found["a"]["kernel"], wrong, atol=1e-4)


def test_missing_arguments_are_errors():
    with pytest.raises(ValueError, match="c is not in the parameters, whose first"):
        optimizer(c=1).init(params())
    transformation = optimizer(a=1)
    state = transformation.init(params())
    with pytest.raises(ValueError, match="epoch is None"):
        transformation.update(gradients(0), state, params())
    with pytest.raises(ValueError, match="params is None"):
        transformation.update(gradients(0), state, epoch=0)
    with pytest.raises(ValueError, match="params is None"):
        published.add_l1(0.1).update(gradients(0), None, None)


@pytest.mark.parametrize(
    ("constant", "decay", "epoch", "expected"),
    [
        (0, 50, 0, 0.9804),
        (0, 50, 49, 0.0196),
        (0, 30, 0, 0.9677),
        (0, 30, 29, 0.0323),
        (10, 20, 9, 1.0),
        (10, 20, 10, 0.9524),
        (10, 20, 29, 0.0476),
    ],
)
def test_linear_epochs(constant, decay, epoch, expected):
    rate = published.linear_epochs(
        epoch, learning_rate=2.0, constant_epochs=constant, decay_epochs=decay
    )
    assert rate == pytest.approx(2 * expected, abs=1e-4)


def test_linear_epochs_never_falls_below_0():
    rate = published.linear_epochs(
        99, learning_rate=1.0, constant_epochs=0, decay_epochs=3
    )
    assert rate == 0
    with pytest.raises(ValueError, match="expected 0 or more"):
        published.linear_epochs(
            -1, learning_rate=1.0, constant_epochs=0, decay_epochs=3
        )


@pytest.mark.parametrize("subtree", [(), ("a",), ("a", "bias")])
def test_l1_gradient_is_that_of_the_norm(subtree):
    expected = jax.grad(lambda p: 0.3 * published.l1_norm(p, subtree=subtree))(params())
    zero = jax.tree.map(jnp.zeros_like, params())
    transformation = published.add_l1(0.3, subtree=subtree)
    found, _ = transformation.update(zero, transformation.init(params()), params())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_l1_norm_includes_biases():
    assert float(published.l1_norm(params())) == 6.5
    assert float(published.l1_norm(params(), subtree=("a",))) == 3.5
    with pytest.raises(ValueError, match="c is not in the parameters"):
        published.l1_norm(params(), subtree=("c",))


def test_moving_average_first_copies_and_then_averages():
    one, three = {"a": jnp.array(1.0)}, {"a": jnp.array(3.0)}

    def value(step):
        found = published.moving_average(one, three, step=step, decay=0.9)
        return float(found["a"])

    assert value(0) == 3
    assert value(1) == pytest.approx(2)
    assert value(999) == pytest.approx(0.9 * 1 + 0.1 * 3)
