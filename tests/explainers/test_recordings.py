"""Explainers against Captum, pytorch-grad-cam and a plain PyTorch ViT, recorded once.

tools/record_explainers.py wrote tests/golden/explainers/vit.npz: two small networks,
one that averages its patches, one with a class token, LayerScale and a register. The
tolerance is 1e-4 of the largest value of a recorded map.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.explainers import integrated_gradients, registry
from fof_jax.explainers.base import Query
from fof_jax.models import vit
from fof_jax.models.vit_classifier import ViTClassifier

GOLDEN = Path(__file__).parents[1] / "golden/explainers/vit.npz"
SIZES = {
    "patches": vit.Size(width=16, depth=3, heads=2, mlp=32),
    "class_token": vit.Size(
        width=16, depth=3, heads=2, mlp=32, layer_scale=True, registers=1
    ),
}
TOLERANCE = 1e-4


# Pooling, LayerScale and registers are the network's: tests/models/test_vit.py.
@pytest.fixture(
    scope="module",
    params=["class_token", pytest.param("patches", marks=pytest.mark.slow)],
)
def recorded(request):
    with np.load(GOLDEN) as file:
        own = {k: file[k] for k in file.files if k.startswith(f"{request.param}/")}
    arrays = {name.partition("/")[2]: array for name, array in own.items()}
    weights = {
        name.removeprefix("weights/"): jnp.asarray(arrays.pop(name))
        for name in list(arrays)
        if name.startswith("weights/")
    }
    return request.param, arrays, weights


@pytest.fixture(scope="module")
def model(recorded):
    name, _, weights = recorded
    head = {k.removeprefix("head/"): v for k, v in weights.items() if "head/" in k}
    params: dict = {}
    for path, array in weights.items():
        *folders, last = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    token = name == "class_token"
    encoder = vit.ViT(
        size=SIZES[name],
        patch=4,
        image_size=(16, 16),
        class_token=token,
        pooling="class_token" if token else "patches",
        frozen_blocks=1,  # has to make no difference
    )

    def logits_of(tokens):
        normed = encoder.apply({"params": params}, tokens, method="final_norm")
        pooled = encoder.apply({"params": params}, normed, method="pool")
        return pooled @ head["kernel"] + head["bias"][None]

    return ViTClassifier(encoder=encoder, params=params, logits_of=logits_of)


@pytest.fixture(scope="module")
def query(recorded):
    arrays = recorded[1]
    return Query(
        pixels=jnp.zeros(arrays["image"].shape, jnp.uint8),
        image=jnp.asarray(arrays["image"]),
        target=jnp.asarray(arrays["target"], jnp.int32),
        index=jnp.arange(3),
    )


def check(found, expected):
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max()
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _explain(encoder, logits_of, name, params, query):
    model = ViTClassifier(encoder=encoder, params=params, logits_of=logits_of)
    return registry.available(model.depth, cam_block=-2)[name].explain(model, query)


def explain(model, query, name):
    """A map; one program for each network and explainer."""
    return _explain(model.encoder, model.logits_of, name, model.params, query)


@pytest.fixture(scope="module")
def logits(model):
    return jax.jit(model.logits)


def test_logits(recorded, logits, query):
    check(logits(query.image), recorded[1]["logits"])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_equation1(recorded, model, query, block):
    name, arrays, _ = recorded
    expected = arrays[f"equation1_{block}"]
    if name == "class_token" and block == 3:
        assert (expected == 0).all()  # NotAvailable, see test_explainers.py
        return
    found = explain(model, query, "eq1" if block == 2 else f"eq1:{block - 4}")
    check(found, np.maximum(expected, 0))


def test_principal_component(recorded, model, query):
    check(
        explain(model, query, "principal_component"),
        recorded[1]["principal_component_2"],
    )


@pytest.mark.parametrize("name", ["rollout", "gradient_attention", "occlusion"])
def test_attention_and_occlusion(recorded, model, query, name):
    expected = recorded[1][name]
    assert np.ptp(expected) > 0
    check(explain(model, query, name), expected)


def test_grad_cam(recorded, model, query):
    expected = recorded[1]["grad_cam"]
    assert (expected > 0).any()
    check(explain(model, query, "grad_cam"), np.maximum(expected, 0))


def test_integrated_gradients(recorded, model, query):
    expected = recorded[1]["integrated_gradients"]
    steps = integrated_gradients.STEPS
    assert steps == 32  # of the recording
    found = jax.jit(lambda q: integrated_gradients.attributions(model, q))(query)
    check(found, expected)
    # On the grid: the sums of the patches' pixels and channels.
    expected = expected.reshape(3, 4, 4, 4, 4, 3).sum(axis=(2, 4, 5))
    check(explain(model, query, "integrated_gradients"), expected)


def test_integrated_gradients_sum_to_the_logits_rise(model, logits, query):
    """Completeness, with an integral fine enough for its error to be below 1e-4."""
    finer = jax.jit(lambda q: integrated_gradients.attributions(model, q, steps=200))
    at = np.arange(3), np.asarray(query.target)
    ends = [np.asarray(logits(x))[at] for x in (query.image, 0 * query.image)]
    whole = np.asarray(finer(query)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(whole, ends[0] - ends[1], atol=1e-4)


def test_what_reads_the_class(recorded, model, query):
    """Another class gives another map, but for rollout and the blind rules."""
    other = query.replace(target=(query.target + 1) % 3)
    for one in registry.choose(["main"], model.depth, cam_block=-2):
        evidence, changed = (
            np.asarray(explain(model, q, one.name)) for q in (query, other)
        )
        assert evidence.shape == (3, 4, 4)
        assert np.isfinite(evidence).all()
        differs = bool((evidence != changed).any())
        assert differs is not (one.blind or one.name == "rollout"), one.name
