"""Methods on bags of patch features: FoF, its ablations, Baseline, mean pooling, ABMIL.

Permuted and split batches against the plain one: relative 1e-4 of the largest
gradient, 1e-5 of losses (float32 sums in another order). The rows of slides alone
against NumPy loops in float64: 1e-5.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fof_jax.configs import slides
from fof_jax.methods import base, encoder, registry
from fof_jax.models import bag_vit
from fof_jax.models.vit import Size
from fof_jax.training import build, parallel
from fof_jax.training import state as training_state
from fof_jax.types import Bag, Batch, DatasetInfo, Variables
from tests.support import initial, methods

D, B, T, K, N = 6, 4, 9, 3, 2
COUNTS = (9, 1, 4, 6)  # patches of each bag
SIZE = Size(width=8, depth=2, heads=2, mlp=16)
INFO = DatasetInfo(("a", "b", "c"), ("idh", "PTEN"), ())
ENCODER = D * 8 + 8 + 2 * (4 * 8 * 8 + 4 * 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8) + 2 * 8
# Exact, by hand: embedding, blocks, last norm; classifier; N projections of 8 x 64.
PARAMETERS = {
    "": ENCODER + 8 * (K + 1) + K + 1 + N * 8 * 64,
    "wo_frl": ENCODER + 8 * (K + 1) + K + 1 + N * 8 * 64,
    "wo_mca": ENCODER + 8 * (K + 1) + K + 1 + N * 8 * 64,
    "baseline": ENCODER + 8 * K + K,
    "mean_pooling": D * K + K,
    "abmil": D * 5 + 5 + 2 * 5 * 4 + 4 + 5 * K + K,
}


def config_of(row="", **fields):
    config = slides.get_config(row)
    config.bags.width, config.bags.attention = 5, 4
    config.update_from_flattened_dict(fields)
    return config


@functools.cache
def make(row="", **fields):
    config = config_of(row, **{k.replace("__", "."): v for k, v in fields.items()})
    method = registry.create(config, INFO)
    if row in slides.ROWS:
        return method
    small = method.network.encoder.clone(size=SIZE)
    return dataclasses.replace(method, network=method.network.clone(encoder=small))


def make_bag(counts=COUNTS, length=T, seed=0):
    r = np.random.default_rng(seed)
    shape = (len(counts), length)
    valid = np.arange(length) < np.array(counts)[:, None]
    return Bag(
        features=r.standard_normal((*shape, D)).astype(np.float32) * valid[..., None],
        coords=r.integers(0, 9, (*shape, 2)).astype(np.float32) * valid[..., None],
        valid=valid,
    )


def make_batch(bag=None):
    r = np.random.default_rng(1)
    return Batch(
        image=None,
        bag=make_bag() if bag is None else bag,
        grade=r.integers(0, K, B).astype(np.int32),
        biomarkers=r.integers(0, 2, (B, N)).astype(np.int32),
        known=r.random((B, N)) > 0.2,
        index=np.arange(B, dtype=np.int32),
        epoch=np.zeros(B, np.int32),
        valid=np.ones(B, bool),
    )


@functools.cache
def variables_of(m):
    return initial.filled(m, make_batch(), {})


@functools.partial(jax.jit, static_argnums=0)
def graded(m, params, batch):
    def loss(params):
        return m.loss(Variables(params=params, state={}), batch, methods.CTX)

    return jax.value_and_grad(loss, has_aux=True)(params)


def loss_and_gradient(m, batch):
    return jax.device_get(graded(m, variables_of(m).params, batch))


def assert_equal(got, want):
    """Losses, metrics and gradients of two batches with the same bags."""
    ((a, x), g), ((b, y), h) = got, want
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name in y.metrics:
        np.testing.assert_allclose(x.metrics[name], y.metrics[name], rtol=1e-5)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(h))
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, atol=1e-4 * largest), g, h
    )


ROWS = pytest.mark.parametrize("row", PARAMETERS)
# wo_mca is FoF with another weight: the same program.
PROGRAMS = pytest.mark.parametrize("row", [r for r in PARAMETERS if r != "wo_mca"])
# Every way to hide a patch. Each is a program with both gradients: three seconds to
# compile.
FILLS = [
    {"views__fill": "mean"},
    {"views__fill": "token"},
    {"views__fill": "drop"},
]
VIEWS = pytest.mark.parametrize(
    "fields",
    [{}, *(pytest.param(one, marks=pytest.mark.slow) for one in FILLS)],
    ids=["zero", *("-".join(map(str, one.values())) for one in FILLS)],
)


@PROGRAMS
def test_finite_gradients(row):
    m = make(row)
    assert isinstance(m, base.Method)
    assert isinstance(m, base.BagExplainer)
    assert m.inputs.test == ("bag",)
    (value, aux), gradient = loss_and_gradient(m, make_batch())
    assert value > 0
    assert aux.metrics["total"] == value
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@ROWS
def test_parameter_count_and_config(row):
    m = make(row)
    shapes = jax.eval_shape(m.init, jax.random.key(0), make_batch(), {})
    assert base.parameter_count(shapes.params) == PARAMETERS[row]
    build.validate(slides.get_config(row))


def permuted(batch):
    """Each bag's patches with their coordinates, and padding, in another order.

    The padding has values that nothing may read.
    """
    order = np.stack([np.random.default_rng(5 + i).permutation(T) for i in range(B)])
    at = np.arange(B)[:, None], order
    bag = batch.bag
    bag = dataclasses.replace(
        bag,
        features=np.where(bag.valid[..., None], bag.features, np.float32(50)),
        coords=np.where(bag.valid[..., None], bag.coords, np.float32(3)),
    )
    return dataclasses.replace(batch, bag=jax.tree.map(lambda a: a[at], bag))


@PROGRAMS
def test_the_order_of_patches_and_padding_change_nothing(row):
    m, batch = make(row), make_batch()
    assert_equal(loss_and_gradient(m, permuted(batch)), loss_and_gradient(m, batch))


@VIEWS
def test_order_and_padding_change_no_view(fields):
    m, batch = make("", **fields), make_batch()
    changed = loss_and_gradient(m, permuted(batch))
    assert_equal(changed, loss_and_gradient(m, batch))
    assert 0 < changed[0][1].metrics["kept"] < 1


def test_the_order_matters_with_other_coordinates_and_not_without_positions():
    batch = make_batch()
    moved = dataclasses.replace(batch.bag, coords=permuted(batch).bag.coords)
    moved = dataclasses.replace(batch, bag=moved)
    for row, alike in (("baseline", False), ("mean_pooling", True)):
        (a, _), (b, _) = (loss_and_gradient(make(row), x)[0] for x in (batch, moved))
        assert bool(abs(a - b) < 1e-6) == alike
    m = make("baseline", bags__positions="none")
    (a, _), (b, _) = (loss_and_gradient(m, x)[0] for x in (batch, moved))
    assert a == b


@VIEWS
def test_each_bag_of_a_mixed_batch_is_as_alone(fields):
    m, batch = make("", **fields), make_batch()
    variables = variables_of(m)
    views_of = jax.jit(m.views)
    together = views_of(variables, batch)
    i, count = 3, COUNTS[3]  # alone without padding, whose length is another program
    bag = jax.tree.map(lambda a: a[i : i + 1, :count], batch.bag)
    alone = Batch(image=None, bag=bag, grade=batch.grade[i : i + 1])
    seen = views_of(variables, alone)
    A, one = (np.asarray(x.activation.A) for x in (together, seen))
    np.testing.assert_allclose(A[i, :count, 0], one[0, :, 0], atol=1e-5)
    keep = np.asarray(together.keep)
    np.testing.assert_array_equal(keep[i, :count], np.asarray(seen.keep)[0])
    np.testing.assert_allclose(together.kept[i], seen.kept[0])
    hidden = ~batch.bag.valid
    assert not A[hidden].any()
    assert not keep[hidden].any()
    for view in ("glb", "pos", "neg"):
        both = (np.asarray(getattr(x, view).logits) for x in (together, seen))
        of_batch, of_one = both
        np.testing.assert_allclose(of_batch[i], of_one[0], atol=1e-5)


def test_the_mask_of_a_bag_is_equation_1_and_2():
    m, batch = make(), make_batch()
    seen = jax.jit(m.views)(variables_of(m), batch)
    gradient, tokens, A, keep = (
        np.asarray(a)
        for a in (seen.activation.gradient, seen.tokens, seen.activation.A, seen.keep)
    )
    for i, count in enumerate(COUNTS):
        alpha = gradient[i, :count].astype(np.float64).sum(axis=0)
        evidence = np.maximum(tokens[i, :count].astype(np.float64) @ alpha, 0)
        spread = evidence.max() - evidence.min()
        want = (evidence - evidence.min()) / spread if spread > 0 else 0 * evidence
        np.testing.assert_allclose(A[i, :count, 0], want, atol=1e-4)
        # Padding has no gradient, and its tokens would otherwise enter alpha.
        assert not gradient[i, count:].any()
        sure = np.abs(want - 0.5) > 1e-3
        np.testing.assert_array_equal(keep[i, :count, 0][sure], want[sure] > 0.5)


def hide(bag, hidden, fill):
    """The bag with another feature in its hidden patches, patch by patch."""
    features = bag.features.copy()
    for i, count in enumerate(COUNTS):
        blank = bag.features[i, :count].mean(axis=0) if fill == "mean" else np.zeros(D)
        for t in range(count):
            if hidden[i, t]:
                features[i, t] = blank
    return dataclasses.replace(bag, features=features)


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_views_are_the_network_on_bags_with_hidden_patches(fill):
    """Tolerance 1e-5: the products are embedded in another order."""
    m, batch = make(views__fill=fill), make_batch()
    variables = variables_of(m)
    got = jax.jit(m.views)(variables, batch)
    keep = np.asarray(got.keep[..., 0])
    for own, hidden in ((got.pos, ~keep), (got.neg, keep)):
        bag = hide(batch.bag, hidden, fill)
        want = m.network.apply({"params": variables.params}, bag)
        np.testing.assert_allclose(own.feature, want.feature, atol=1e-5)
        np.testing.assert_allclose(own.logits, want.logits, atol=1e-5)


def test_positions_are_sine_and_cosine_of_both_axes():
    coords = np.array([[[0, 0], [3, 1], [2.5, 700]]], np.float32)
    got = jax.device_get(bag_vit.sincos_positions(jnp.asarray(coords), 16))
    for t, place in enumerate(coords[0].tolist()):
        want = [
            f(c * 10000 ** (-i / 4))
            for c in place
            for f in (math.sin, math.cos)
            for i in range(4)
        ]
        np.testing.assert_allclose(got[0, t], want, atol=1e-4)


def numpy_mean_pooling(params, x):
    kernel, bias = params["classifier"]["kernel"], params["classifier"]["bias"]
    mean = sum(x) / len(x)
    logits = [sum(mean * kernel[:, k]) + bias[k] for k in range(K)]
    evidence = [[max(sum(v * kernel[:, k]), 0) for v in x] for k in range(K)]
    return logits, evidence


def numpy_abmil(params, x):
    score, h = [], []
    for v in x:
        e = params["embedding"]
        h.append(np.maximum(v @ e["kernel"] + e["bias"], 0))
        gate = 1 / (1 + np.exp(-(h[-1] @ params["U"])))
        score.append(float((np.tanh(h[-1] @ params["V"]) * gate) @ params["w"][:, 0]))
    a = [math.exp(s) / sum(math.exp(r) for r in score) for s in score]
    z = sum(weight * one for weight, one in zip(a, h, strict=True))
    c = params["classifier"]
    return list(z @ c["kernel"] + c["bias"]), [a] * K


@pytest.mark.parametrize(
    ("row", "reference"), [("mean_pooling", numpy_mean_pooling), ("abmil", numpy_abmil)]
)
def test_rows_of_slides_are_their_formulas(row, reference):
    m, batch = make(row), make_batch()
    variables = variables_of(m)
    # Biases are initialized with 0.
    moved = jax.tree.map(
        lambda a: a + np.random.default_rng(3).standard_normal(a.shape), variables
    )
    moved = jax.tree.map(lambda a: a.astype(np.float32), moved)
    logits = jax.device_get(jax.jit(m.apply)(moved, batch)).logits
    A = jax.device_get(jax.jit(m.bag_map)(moved, batch.bag, batch.grade))
    exact = jax.tree.map(lambda a: a.astype(np.float64), moved.params)
    total = 0.0
    for i, count in enumerate(COUNTS):
        x = batch.bag.features[i, :count].astype(np.float64)
        want, evidence = reference(exact, x)
        np.testing.assert_allclose(logits[i], want, atol=1e-5)
        e = np.array(evidence[batch.grade[i]])
        scaled = (e - e.min()) / (np.ptp(e) or 1)
        np.testing.assert_allclose(A[i, :count], scaled, atol=1e-4)
        assert not A[i, count:].any()
        y = np.array(want)
        total += (np.log(np.exp(y).sum()) - y[batch.grade[i]]) / B
    value, _ = jax.jit(m.loss)(moved, batch, methods.CTX)
    np.testing.assert_allclose(value, total, rtol=1e-5)


# The others gather what these do; FoF's own gathering is tested on images.
@pytest.mark.parametrize("row", [pytest.param("", marks=pytest.mark.slow), "abmil"])
def test_two_devices_are_one(row):
    m, batch = make(row), make_batch()
    (value, _), gradient = loss_and_gradient(m, batch)
    descent = optax.identity()  # gradient descent at rate 1 moves by the gradient
    variables = jax.tree.map(np.copy, variables_of(m))
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        state={},
        opt_state=descent.init(variables.params),
    )
    step = parallel.train_step(
        m, descent, lambda b: b, jax.random.key(1), jax.local_devices()[:2]
    )
    schedule = training_state.Schedule(learning_rate=np.float32(1))
    after, metrics = step(state, parallel.to_devices(batch, 2), schedule, {})
    np.testing.assert_allclose(metrics["total"], value, rtol=1e-5)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b, g: np.testing.assert_allclose(
            a - np.asarray(b), g, atol=1e-5 * largest
        ),
        variables_of(m).params,
        after.params,
        gradient,
    )


def test_unfit_encoders_and_inputs_are_refused():
    image = np.zeros((2, 32, 32, 3), np.float32)

    def start(method, batch):
        return jax.eval_shape(method.init, jax.random.key(0), batch, {})

    with pytest.raises(ValueError, match="got an image, expected a bag of features"):
        start(make("baseline"), Batch(image=image))
    with pytest.raises(ValueError, match="bag: got images, expected bags"):
        start(make("abmil"), Batch(image=image))
    with pytest.raises(ValueError, match="got a bag of features, expected an image"):
        start(methods.make("vit"), make_batch())
    for fields, message in (
        ({"encoder": "X/features"}, "encoder: 'X/features' is not a variant"),
        ({"encoder": "DINOv2-S+reg/features"}, "is not a variant"),
        ({"bags.positions": "no"}, "bags.positions: got 'no', expected one of"),
        ({"pooling": "class_token"}, "pooling: got class_token, which only the ViT"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.validate(config_of("", **fields))
    with pytest.raises(ValueError, match="bags.attention: got 0, expected 1 or more"):
        make("abmil", bags__attention=0)
    with pytest.raises(ValueError, match="argument 'no' does not exist"):
        slides.get_config("no")
