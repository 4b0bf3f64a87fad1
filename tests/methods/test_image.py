"""The image rows: the battery of every method, for each family of encoders.

Gradients of two devices against one: 1e-5 of the largest gradient; batch statistics
1e-6 (float32 sums in another order).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods import base, registry
from fof_jax.methods.distill import dgkd, dgkd_network, kl, student
from fof_jax.methods.distill.student_network import StudentNetwork
from fof_jax.methods.image import ImageClassifier
from fof_jax.models import image_encoders, resnet, swin, vgg, vit
from fof_jax.training import optimizer, parallel
from fof_jax.training import state as training_state
from fof_jax.types import Batch, DatasetInfo
from tests.methods.distill import networks
from tests.support import fusion_rows, initial, methods

SIDE, B, K = 32, 4, 3
SWIN = swin.Size(width=8, depths=(2, 1), heads=(1, 2), drop_path=0.4)
ENCODERS = {
    "vit": vit.ViT(vit.Size(16, 2, 2, 32), patch=8, image_size=(SIDE, SIDE)),
    "resnet": resnet.ResNet(features=6, blocks=(1, 1), width=4),
    "vgg": vgg.VGG(features=5, widths=(4, 0, 6, 0)),
    "swin": swin.SwinV2(size=SWIN, window=4),
}


def _conv(kernel, inputs, outputs, bias=0):
    return kernel * kernel * inputs * outputs + bias * outputs


def _linear(inputs, outputs, bias=1):
    return (inputs + bias) * outputs


def _swin_block(width, heads):
    attention = 3 * width**2 + 2 * width + _linear(width, width) + heads
    bias = _linear(2, 512) + 512 * heads
    return attention + bias + 4 * width + 8 * width**2 + 5 * width


# Exact, by hand, with the classifier; of BatchNorm scale and bias.
COUNTS = {
    "vit": 3 * 64 * 16 + 16 + 16 * 16 + 2 * 16
    + 2 * (4 * 16 * 16 + 4 * 16 + 2 * 16 * 32 + 32 + 16 + 4 * 16)
    + _linear(16, K),
    "resnet": _conv(7, 3, 4) + 8
    + (2 * _conv(3, 4, 4) + 16)
    + (_conv(3, 4, 8) + _conv(3, 8, 8) + _conv(1, 4, 8) + 48)
    + _linear(8, 6) + 12 + _linear(6, K),
    "vgg": _conv(3, 3, 4, 1) + 8 + _conv(3, 4, 6, 1) + 12
    + _linear(6 * 49, 1024) + _linear(1024, 1024) + _linear(1024, 5) + _linear(5, K),
    "swin": _conv(4, 3, 8, 1) + 16
    + 2 * _swin_block(8, 1) + _linear(32, 16, 0) + 32 + _swin_block(16, 2)
    + 32 + _linear(16, K),
}  # fmt: skip
# Published encoders with three classes: trained, and not trained.
PUBLISHED = {
    "resnet18": (11_242_819, 0),
    "vgg19bn": (26_773_635, 20_035_392),
    "swinv2_tiny/8": (27_580_461, 0),
}


def make_batch(rows=B, seed=0):
    r = np.random.default_rng(seed)
    batch = Batch(
        image=r.standard_normal((rows, SIDE, SIDE, 3)).astype(np.float32),
        grade=(np.arange(rows) % K).astype(np.int32),
        biomarkers=np.zeros((rows, 0), np.int32),
        known=np.zeros((rows, 0), bool),
        floats=np.zeros((rows, 0), np.float32),
        index=(7 + 3 * np.arange(rows)).astype(np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    """The method, its variables, a batch, and one device's loss and gradient."""
    method, batch = ImageClassifier(StudentNetwork(ENCODERS[name], K)), make_batch()
    variables = initial.filled(method, batch, {})
    if name == "swin":  # fresh blocks are the identity
        params = jax.tree.map(
            lambda p: np.where(p == 0, np.float32(0.1), p), variables.params
        )
        variables = variables.replace(params=params)
    whole = jax.device_get(loss_and_gradient(method, variables, batch))
    return method, variables, batch, whole


@functools.partial(jax.jit, static_argnums=0)
def applied(method, variables, batch):
    return method.apply(variables, batch)


@functools.partial(jax.jit, static_argnums=0)  # one program a method
def loss_and_gradient(method, variables, batch):
    def loss(params):
        given = variables.replace(params=params)
        return method.loss(given, batch, networks.context())

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
    return value, gradient, out.state, out.metrics


def test_loss_gradients_and_count(name, case):
    method, variables, _, (value, gradient, _, metrics) = case
    assert isinstance(method, base.Method)
    assert metrics["total"] == value
    for leaf in jax.tree.leaves((value, gradient)):
        assert np.isfinite(leaf).all()
    assert base.parameter_count(variables.params) == COUNTS[name]


def test_every_trained_tensor_has_a_gradient(name, case):
    method, _, _, (_, gradient, _, _) = case
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        keys = tuple(k.key for k in path)
        frozen = any(keys[: len(u)] == u for u in method.untrained)
        vanishes = keys[-2:] == ("projection", "bias")  # before a BatchNorm
        assert bool(np.abs(g).max() > 0) != frozen or vanishes, keys


def test_the_order_of_the_batch_does_not_matter(case):
    method, variables, batch, (value, _, _, _) = case
    order = np.array([2, 0, 3, 1])
    permuted = jax.tree.map(lambda a: np.asarray(a)[order], batch)
    again, _, _, _ = loss_and_gradient(method, variables, permuted)
    np.testing.assert_allclose(again, value, rtol=1e-5)


# The others have no batch statistics: the battery's lines for `vit` in test_methods.py.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n in ("swin", "vit")))
        for n in sorted(ENCODERS)
    ],
    indirect=True,
)
def test_two_devices_are_one(case):
    method, variables, batch, (value, gradient, state, _) = case
    values, found, states, _ = networks.two_devices(method, variables, batch, 0)
    assert_two_are_one(value, gradient, state, values, found, states)


def assert_two_are_one(value, gradient, state, values, found, states):
    np.testing.assert_allclose(values, [value, value], rtol=1e-5)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a[0], b, atol=1e-5 * largest)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a[0], a[1])
        np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6)


def test_prediction_reads_the_image_and_moving_statistics(name, case):
    method, variables, batch, (_, _, state, _) = case
    assert method.inputs.test == ("image",)
    only = Batch(image=batch.image)
    output = jax.device_get(applied(method, variables, only))
    head = jax.device_get(variables.params["classifier"])
    again = output.features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(again, output.logits, atol=1e-5)
    alone = applied(method, variables, Batch(image=np.asarray(batch.image)[:1]))
    np.testing.assert_allclose(alone.logits, output.logits[:1], atol=1e-5)
    moved = jax.device_get(applied(method, variables.replace(state=state), only))
    differ = bool((moved.logits != output.logits).any())
    assert differ == (name in ("resnet", "vgg"))


def test_a_step_leaves_a_frozen_trunk():
    method, batch = ImageClassifier(StudentNetwork(ENCODERS["vgg"], K)), make_batch()
    variables = initial.filled(method, batch, {})
    adamw = optimizer.adamw(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)
    transform = optimizer.without(adamw, method.untrained)
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(np.copy, variables.params),  # the step donates these
        state=jax.tree.map(np.copy, variables.state),
        opt_state=transform.init(variables.params),
    )
    step = parallel.train_step(
        method, transform, lambda b: b, jax.random.key(1), jax.local_devices()[:1]
    )
    schedule = training_state.Schedule(learning_rate=np.float32(1e-2))
    after, _ = step(state, parallel.to_devices(batch, 1), schedule, {})
    after = jax.device_get(after)
    for path, new in jax.tree_util.tree_leaves_with_path(after.params):
        keys = tuple(k.key for k in path)
        old = variables.params
        for key in keys:
            old = old[key]
        frozen = any(keys[: len(u)] == u for u in method.untrained)
        assert bool(np.any(new != old)) != frozen, keys
    moments = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state))
    trained = base.parameter_count(variables.params) - sum(
        base.parameter_count(variables.params[u[0]][u[1]]) for u in method.untrained
    )
    assert moments == 2 * trained + 1


@pytest.mark.parametrize("encoder", sorted(PUBLISHED))
def test_published_sizes(encoder):
    side = 256 if encoder.startswith("swin") else 64
    config = methods.settings("image")
    config.encoder, config.data.image_size = encoder, side
    method = registry.create(config, DatasetInfo(("II", "III", "IV"), (), ()))
    batch = Batch(image=jnp.zeros((1, side, side, 3)))
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), batch, {}))
    untrained = sum(
        base.parameter_count(shapes.params[u[0]][u[1]]) for u in method.untrained
    )
    trained = base.parameter_count(shapes.params) - untrained
    assert (trained, untrained) == PUBLISHED[encoder]
    if encoder == "resnet18":
        assert base.parameter_count(shapes.state) == 9_856


@pytest.mark.parametrize(
    ("row", "encoder", "message"),
    [
        ("pathcnn", "mu/16", "'pathcnn' is resnet18. Pass --config.encoder=resnet18"),
        ("swinv2", "vgg19bn", "Pass --config.encoder=swinv2_tiny/8"),
    ],
)
def test_a_named_row_has_its_encoder(row, encoder, message):
    with pytest.raises(ValueError, match=message):
        _create(row, encoder)


def _create(row, encoder):
    config = methods.settings(row)
    config.encoder = encoder
    return registry.create(config, DatasetInfo(("a", "b"), (), ()))


@pytest.mark.parametrize("row", ["pathcnn", "pathcnn_vgg"])
def test_names_of_the_rows(row):
    encoder = {"pathcnn": "resnet18", "pathcnn_vgg": "vgg19bn"}[row]
    method = _create(row, encoder)
    assert row in registry.names()
    assert method.network.encoder == image_encoders.build(encoder)


# Rows with an encoder that has batch statistics, each on its own and gathered rows.


@pytest.mark.slow
def test_a_fusion_synchronizes_its_encoder():
    method = fusion_rows.build_from(
        "concat",
        fusion_rows.config("concat"),
        resnet.ResNet(features=None, blocks=(1, 1), width=4),
    )
    whole = fusion_rows.batch(6)
    variables = initial.filled(method, whole)
    assert "image_encoder" in variables.state["batch_stats"]
    _check_two_devices(method, variables, whole)


@pytest.mark.slow
def test_a_student_synchronizes_its_encoder():
    method = student.Student(
        encoder=ENCODERS["resnet"],
        num_classes=networks.CLASSES,
        teacher=networks.Teacher(),
        terms=(kl.term(weight=1.0, temperature=1.0, source="ema"),),
    )
    whole = networks.batch(8)
    variables = method.init(jax.random.key(0), whole, networks.frozen())
    _check_two_devices(method, variables, whole)


@pytest.mark.slow
def test_the_mean_teacher_synchronizes_its_encoder():
    network = dgkd_network.network(
        encoder=resnet.ResNet(features=None, blocks=(1, 1), width=4),
        num_classes=3,
        features=6,
        fused=5,
        rate=0.0,
        widths=(7, 6, 5),
    )
    method = dgkd.DGKD(network=network, classes=3)
    whole = networks.batch(8)
    variables = method.init(jax.random.key(0), whole)
    _check_two_devices(method, variables, whole)


def _check_two_devices(method, variables, whole):
    value, gradient, state, _ = networks.one_device(method, variables, whole, 1)
    values, found, states, _ = networks.two_devices(method, variables, whole, 1)
    assert_two_are_one(value, gradient, state, values, found, states)
