"""`views.fill = "drop"` and `views.warmup_epochs`.

The reference of the packed views runs each view of each image alone, on its kept
tokens, in a plain loop. Tolerance: 1e-5 of the largest value or gradient, float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods import base
from fof_jax.methods.paper import losses, options
from fof_jax.models import vit
from fof_jax.training import parallel
from fof_jax.training import state as training_state
from fof_jax.types import Batch, StepContext, Variables
from tests.support import initial, methods

SIDE, B = (16, 12), 4
SIZE = vit.Size(width=16, depth=2, heads=2, mlp=32, layer_scale=True)
NO_PREFIX, PREFIX = (False, 0), (True, 2)  # class token, number of registers


def make(*, implementation="chunked", prefix=NO_PREFIX, pooling="patches", **fields):
    class_token, registers = prefix
    size = vit.Size(**{**SIZE.__dict__, "registers": registers})
    encoder = vit.ViT(
        size=size,
        patch=4,
        image_size=SIDE,
        class_token=class_token,
        pooling=pooling,
        implementation=implementation,
    )
    return methods.make("fof", encoder, **fields)


def make_batch(seed=0):
    r = np.random.default_rng(seed)
    batch = Batch(
        image=r.standard_normal((B, *SIDE, 3)).astype(np.float32),
        grade=r.integers(0, 3, B).astype(np.int32),
        biomarkers=r.integers(0, 2, (B, 2)).astype(np.int32),
        known=np.ones((B, 2), bool),
        index=np.arange(B, dtype=np.int32),
        epoch=np.zeros(B, np.int32),
        valid=np.ones(B, bool),
    )
    return jax.tree.map(jnp.asarray, batch)


def masks(seed=1):
    """Random masks, one that keeps a single patch, one that keeps all but one."""
    keep = np.random.default_rng(seed).random((B, 4, 3)) > 0.6
    keep[1], keep[2] = False, True
    keep[1, 2, 1], keep[2, 0, 2] = True, False
    return keep


def alone(m, params, image, keep):
    """Features of each view alone: [2 B, D], a plain loop over images and views."""

    def one(module, image, shown):
        encoder = module.encoder
        tokens = encoder.add_position(encoder.embed(image))
        prefix = encoder.num_prefix
        own = np.concatenate([np.arange(prefix), prefix + np.flatnonzero(shown)])
        tokens = encoder.final_norm(encoder.run(tokens[:, own]))
        if encoder.pooling == "class_token":
            return tokens[0, 0]
        return tokens[0, prefix:].mean(axis=0)

    features = []
    for sign in (keep, ~keep):
        for i in range(len(keep)):
            shown, picture = sign[i].reshape(-1), image[i : i + 1]
            method = functools.partial(one, shown=shown)
            features.append(m.network.apply({"params": params}, picture, method=method))
    return jnp.stack(features)


def close(got, want):
    largest = max(float(jnp.abs(b).max()) for b in jax.tree.leaves(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(largest, 1), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "prefix", "pooling"),
    [
        ("naive", NO_PREFIX, "patches"),
        ("chunked", PREFIX, "patches"),
        ("chunked", PREFIX, "class_token"),
    ],
)
def test_packed_views_are_each_view_alone(implementation, prefix, pooling):
    m = make(
        implementation=implementation, prefix=prefix, pooling=pooling, views_fill="drop"
    )
    batch, keep = make_batch(), masks()
    params = initial.filled(m, batch, {}).params
    # Larger scores, so that attention is far from uniform.
    qkv = params["encoder"]["blocks"]["qkv"]
    qkv["kernel"] = 2 * qkv["kernel"]
    weight = np.random.default_rng(2).standard_normal((2 * B, 16)).astype(np.float32)

    def scalar(feature):
        return lambda p: (feature(p) * weight).sum(), feature(params)

    def packed(p):
        return m.network.apply(
            {"params": p}, batch.image, jnp.asarray(keep), method="packed"
        ).feature

    ours, got = scalar(packed)
    reference, want = scalar(lambda p: alone(m, p, batch.image, keep))
    close(got, want)
    close(jax.jit(jax.grad(ours))(params), jax.jit(jax.grad(reference))(params))


def test_a_view_without_patches_has_the_feature_0_and_no_gradient():
    m, batch = make(views_fill="drop"), make_batch()
    variables = initial.filled(m, batch, {})
    keep = jnp.zeros((B, 4, 3), bool).at[0].set(True)

    @jax.jit
    def feature(p):
        return m.network.apply(
            {"params": p}, batch.image, keep, method="packed"
        ).feature

    got = feature(variables.params)
    assert np.abs(got[0]).max() > 0  # keeps everything
    np.testing.assert_array_equal(got[1:B], np.zeros((B - 1, 16)))
    np.testing.assert_array_equal(got[B], np.zeros(16))
    # The complement is the whole image.
    whole = jax.jit(m.network.apply)({"params": variables.params}, batch.image).feature
    close(got[B + 1 :], whole[1:])
    empty = jax.jit(jax.grad(lambda p: feature(p)[1:B].sum()))(variables.params)
    for leaf in jax.tree.leaves(empty):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def loss_of(m, ctx=methods.CTX):
    def loss(params, batch):
        return m.loss(Variables(params=params, state={}), batch, ctx)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
def test_the_loss_reads_the_packed_views():
    m, batch = make(views_fill="drop"), make_batch()
    variables = initial.filled(m, batch, {})
    seen = m.views(variables, batch)
    want = alone(m, variables.params, batch.image, np.asarray(seen.keep))
    shown = np.asarray(seen.keep).any(axis=(1, 2))
    close(seen.pos.feature[shown], want[:B][shown])
    close(seen.neg.feature, want[B:])
    (value, aux), gradient = loss_of(m)(variables.params, batch)
    label = jnp.full(B, m.num_classes)
    assert float(aux.metrics["cls_neg"]) == pytest.approx(
        float(losses.cross_entropy(seen.neg.logits, label)), rel=1e-5
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    count = base.parameter_count(variables.params)
    assert count == base.parameter_count(
        make().init(jax.random.key(0), batch, {}).params
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"views_fill": "drop"},
        {"views_fill": "drop", "views_warmup_epochs": 35.0},
    ],
    ids=["drop", "drop and warmup"],
)
def test_two_devices_are_one(fields):
    import optax

    m, batch = make(prefix=PREFIX, **fields), make_batch()
    params = initial.filled(m, batch, {}).params
    schedule = training_state.Schedule(
        learning_rate=np.float32(1), progress=np.float32(0.2)
    )
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),  # the step donates these
        state={},
        opt_state=optax.identity().init(params),
    )
    step = parallel.train_step(
        m, optax.identity(), lambda b: b, jax.random.key(1), jax.local_devices()[:2]
    )
    after, metrics = step(state, parallel.to_devices(batch, 2), schedule, {})
    ctx = StepContext(key=jax.random.key(1), progress=0.2)
    (value, _), gradient = loss_of(m, ctx)(params, batch)
    np.testing.assert_allclose(metrics["total"], value, rtol=1e-5)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: a - b, params, after.params)
    for got, want in zip(
        jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5 * largest, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("progress", [0.0, 0.05, 0.1, 0.7])
def test_warmup_goes_from_without_frl_to_the_whole_loss(progress):
    """7 of 70 epochs: a tenth of the training."""
    batch = make_batch()
    ctx = StepContext(key=jax.random.key(1), progress=progress)
    params = make().init(jax.random.key(0), batch, {}).params
    (got, aux), gradient = loss_of(make(views_warmup_epochs=7.0), ctx)(params, batch)
    (whole, _), up = loss_of(make(), ctx)(params, batch)
    (without, _), down = loss_of(make(frl=False), ctx)(params, batch)
    w = min(progress / 0.1, 1.0)
    assert float(aux.metrics["views_weight"]) == pytest.approx(w)
    assert float(got) == pytest.approx(float((1 - w) * without + w * whole), rel=1e-5)
    assert aux.metrics["total"] == got
    close(gradient, jax.tree.map(lambda a, b: (1 - w) * a + w * b, down, up))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "views_warmup_epochs",
            71.0,
            r"views.warmup_epochs: got 71.0, expected 0 … 70",
        ),
        ("views_fill", "gone", "views.fill: got 'gone', expected one of zero, mean"),
    ],
)
def test_values_that_mean_nothing_are_errors(field, value, message):
    with pytest.raises(ValueError, match=message):
        make(**{field: value})


def test_a_run_of_a_removed_field_is_an_error():
    config = methods.settings("fof")
    with config.unlocked():
        config.views.stop_gradient = False  # what it computes anyway
        config.views.keep_share = 0.3
    message = "views.keep_share: got 0.3, and this version has no such field"
    with pytest.raises(ValueError, match=message):
        options.view_options(config)
    config.views.keep_share = 0.0
    assert options.view_options(config)["fill"] == "zero"
