"""Explainers: Eq. (1) and the release's map as the methods make them; blind rules.

The other explainers are held to recordings in test_recordings.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.cli import config as config_flag
from fof_jax.explainers import registry
from fof_jax.explainers.base import NotAvailable, Query, to_map
from fof_jax.methods import registry as methods
from fof_jax.types import Batch, DatasetInfo
from tests.support import initial

INFO = DatasetInfo(
    classes=("II", "III", "IV"), biomarkers=("IDH",), float_markers=("1p",)
)


@functools.cache
def make_method(name, *fields):
    argument = "phantom:release" if name == "release" else "phantom"
    words = [f"--config={argument}", f"--config.method={name}", *fields]
    words += ["--config.encoder=mu/16", "--config.data.image_size=64"]
    config = config_flag.load(words)
    method = methods.create(config, INFO)
    image = jnp.zeros((1, 64, 64, 3))
    return method, initial.filled(method, Batch(image=image), {})


def make_query(seed=0, count=2):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)
    pixels = jnp.asarray(pixels)
    return Query(
        pixels=pixels,
        image=pixels / 127.5 - 1,
        target=jnp.array([0, 2, 1, 0])[:count],
        index=jnp.arange(count),
    )


@pytest.mark.parametrize("name", ["fof", "vit", "release"])
def test_the_methods_own_map_is_the_explainers(name):
    """At the block of training: Eq. (1), and for the release its component."""
    method, variables = make_method(name)
    query = make_query()
    own = registry.PRINCIPAL_COMPONENT if name == "release" else registry.EQUATION1
    (chosen,) = registry.choose([own], depth=4, cam_block=-2)

    @jax.jit
    def explain(variables, query):
        evidence = chosen.explain(method.vit_classifier(variables), query)
        return to_map(evidence, (64, 64))

    own_map = jax.jit(method.class_activation_map)
    expected = own_map(variables, query.image, query.target)
    assert expected.max() > 0
    # The release adds 1e-7 to its denominators.
    np.testing.assert_allclose(explain(variables, query), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["fof", "vit", "release"])
def test_logits_of_the_parts_are_the_methods(name):
    method, variables = make_method(name)
    query = make_query()
    expected = jax.jit(method.apply)(variables, Batch(image=query.image)).logits
    got = jax.jit(lambda v, x: method.vit_classifier(v).logits(x))(
        variables, query.image
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_frozen_encoder_still_has_gradients_at_the_image():
    method, variables = make_method("vit", "--config.optimizer.freeze_blocks=2")
    (chosen,) = registry.choose(["integrated_gradients"], depth=4, cam_block=-2)

    @jax.jit  # the variables are no constants, which would be folded
    def explain(variables, query):
        return chosen.explain(method.vit_classifier(variables), query)

    evidence = explain(variables, make_query())
    assert (np.asarray(evidence) != 0).all()


def test_what_a_class_token_model_does_not_have():
    method, variables = make_method(
        "vit", "--config.pooling=class_token", "--config.init.class_token=keep"
    )
    model = method.vit_classifier(variables)
    last = registry.available(4, -2)["eq1:-1"]
    with pytest.raises(NotAvailable, match="class token alone is read"):
        last.explain(model, make_query())


def test_choice_of_explainers():
    def names(*words):
        return [one.name for one in registry.choose(words, depth=3, cam_block=-2)]

    assert names("eq1", "eq1:-1", "eq1:-2") == ["eq1", "eq1:-1"]
    assert names("blind") == ["random", "center", "darkest", "hematoxylin", "edges"]
    assert len(names("all")) == len(names("main")) + 2
    assert names("model", "blind") == names("main")
    with pytest.raises(ValueError, match="'gradcam' does not exist. Expected"):
        names("gradcam")


def test_blind_rules_against_loops():
    query = make_query(1)
    method, variables = make_method("vit")
    model = method.vit_classifier(variables)
    found = {
        one.name: np.asarray(one.explain(model, query))
        for one in registry.choose(["blind"], depth=4, cam_block=-2)
    }
    stains = np.array(
        [[0.65, 0.704, 0.286], [0.072, 0.99, 0.105], [0.268, 0.57, 0.776]]
    )
    unmix = np.linalg.inv(stains / np.sqrt((stains**2).sum(axis=1))[:, None])
    for b, pixels in enumerate(np.asarray(query.pixels, np.float64)):
        gray = pixels @ [0.299, 0.587, 0.114]
        amount = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                part = np.s_[16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
                dark = np.mean([255 - v for v in gray[part].ravel()])
                np.testing.assert_allclose(found["darkest"][b, i, j], dark, rtol=1e-5)
                total = 0.0
                for rgb in pixels[part].reshape(-1, 3):
                    total += (-np.log((rgb + 1) / 256) @ unmix)[0]
                amount[i, j] = total / 256
                edge = 0.0
                for y in range(16 * i, 16 * i + 16):
                    for x in range(16 * j, 16 * j + 16):
                        up, down = max(y - 1, 0), min(y + 1, 63)
                        left, right = max(x - 1, 0), min(x + 1, 63)
                        dy = (gray[down, x] - gray[up, x]) / (down - up)
                        dx = (gray[y, right] - gray[y, left]) / (right - left)
                        edge += np.hypot(dy, dx)
                np.testing.assert_allclose(
                    found["edges"][b, i, j], edge / 256, rtol=1e-5
                )
        np.testing.assert_allclose(
            found["hematoxylin"][b], amount - amount.min(), atol=1e-5
        )
    center = found["center"][0]
    assert (center == center.T).all()
    assert center.argmax() in (5, 6, 9, 10)
    assert np.isclose(
        center.max() - center[0, 0], np.hypot(1.5, 1.5) - np.hypot(0.5, 0.5)
    )
