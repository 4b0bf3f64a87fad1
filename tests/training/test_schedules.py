"""The optimizer and schedule that a config names.

Tolerances: rates 1e-12, Adam in float32 1e-6, relative.
"""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fof_jax.training import optimizer
from tests.support.methods import settings


def test_linear_epochs_is_the_published_rate():
    # 1 - (e + 1) / 31 for 30 epochs, none of them constant; one rate per epoch.
    config = settings("vit", optimizer_schedule="linear_epochs", epochs=30)
    config.optimizer.learning_rate = 5e-4
    for epoch in (0, 1, 29):
        for step in (7 * epoch, 7 * epoch + 6):
            rate = optimizer.learning_rate(config, step, steps_per_epoch=7)
            want = 5e-4 * (1 - (epoch + 1) / 31)
            assert math.isclose(rate, want, rel_tol=1e-12)


def test_more_constant_epochs_than_epochs_are_refused():
    config = settings("vit", optimizer_schedule="linear_epochs", epochs=3)
    config.optimizer.constant_epochs = 4
    with pytest.raises(ValueError, match="decay_epochs -1, expected 0 or more"):
        optimizer.learning_rate(config, 0, steps_per_epoch=1)


def test_adam_l2_is_optaxs_adam_on_the_decayed_gradient():
    config = settings("vit", optimizer_name="adam_l2", optimizer_weight_decay=0.1)
    ours = optimizer.from_config(config)
    theirs = optax.chain(
        optax.add_decayed_weights(0.1), optax.scale_by_adam(0.9, 0.999, 1e-8)
    )
    params, gradient = {"w": jnp.array([1.0, -2])}, {"w": jnp.array([0.3, 0.1])}
    ours_state, theirs_state = ours.init(params), theirs.init(params)
    for _ in range(3):
        got, ours_state = ours.update(gradient, ours_state, params)
        want, theirs_state = theirs.update(gradient, theirs_state, params)
        np.testing.assert_allclose(got["w"], want["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("name", optimizer.from_config),
        ("schedule", lambda c: optimizer.learning_rate(c, 0, steps_per_epoch=1)),
    ],
)
def test_what_does_not_exist_is_refused(field, call):
    config = settings("vit", **{f"optimizer_{field}": "sgd"})
    with pytest.raises(ValueError, match=f"optimizer.{field}: got 'sgd', expected one"):
        call(config)
