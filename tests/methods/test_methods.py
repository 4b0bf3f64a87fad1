"""Every method of the table goes through the same battery.

Gradients of two devices against one: 1e-5 of the largest gradient (float32 sums in
another order).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods import base, registry
from fof_jax.models import vit
from fof_jax.training import optimizer, parallel
from fof_jax.training import state as training_state
from fof_jax.types import Batch, DatasetInfo, Variables
from tests.support import initial, methods

SIZE = vit.Size(width=16, depth=2, heads=2, mlp=32)
PATCH, SIDE, B, FLOATS = 4, (16, 12), 4, 4
ENCODER = 3 * PATCH**2 * 16 + 16 + 12 * 16 + 2 * 16  # embedding, position, last norm
BLOCK = 4 * 16 * 16 + 4 * 16 + 2 * 16 * 32 + 32 + 16 + 4 * 16
# Exact, by hand: encoder, classifier (K + 1 or K outputs), N projections of 16 x 64.
# The release: mask token, heads of K and K + 10, region projection, gene projections;
# the averaged copy of the projections is state.
COUNTS = {
    "fof": ENCODER + 2 * BLOCK + 16 * 4 + 4 + 2 * 16 * 64,
    "release": ENCODER
    + (2 * BLOCK + 16)
    + (16 * 3 + 3 + 16 * 13 + 13)
    + (16 * 16 + 16 * 64 + 2 * 16 * 64),
    "vit": ENCODER + 2 * BLOCK + 16 * 3 + 3,
}
# Methods whose loss depends on the order of the batch, and why.
ORDERED = {"release": "its rows are cut anew and glued by position (items 18, 30)"}


def make(name, *, classes=3, biomarkers=2, **fields):
    encoder = vit.ViT(size=SIZE, patch=PATCH, image_size=SIDE)
    if name == "release":
        fields = {"world_size_emulated": 2, "data_label_transform": "raw"} | fields
        # It refuses a weight on a term that has no columns.
        fields |= {} if biomarkers else {"lambda_dis_gene": 0.0}
    return methods.make(
        name, encoder, classes=classes, biomarkers=biomarkers, floats=FLOATS, **fields
    )


def make_batch(*, classes=3, biomarkers=2, rows=B, seed=0):
    r = np.random.default_rng(seed)
    image, second = r.standard_normal((2, rows, *SIDE, 3)).astype(np.float32)
    batch = Batch(
        image=image,
        second_view=second,
        grade=r.integers(0, classes, rows).astype(np.int32),
        biomarkers=r.integers(-1, 2, (rows, biomarkers)).astype(np.int32),
        known=r.random((rows, biomarkers)) > 0.2,
        floats=r.standard_normal((rows, FLOATS)).astype(np.float32),
        index=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )
    return jax.tree.map(jnp.asarray, batch)


def variables_of(m, batch):
    return initial.filled(m, batch, {})


@functools.partial(jax.jit, static_argnums=0)  # one program a method
def graded(m, variables, batch):
    def loss(params):
        given = Variables(params=params, state=variables.state)
        return m.loss(given, batch, methods.CTX)

    return jax.value_and_grad(loss, has_aux=True)(variables.params)


def loss_and_gradient(m, variables, batch):
    """On the host: what tests do with them there compiles nothing."""
    return jax.device_get(graded(m, variables, batch))


@functools.partial(jax.jit, static_argnums=0)
def loss_of(m, variables, batch):
    return m.loss(variables, batch, methods.CTX)


@functools.partial(jax.jit, static_argnums=0)
def applied(m, variables, batch):
    return m.apply(variables, batch)


@functools.partial(jax.jit, static_argnums=0)
def map_of(m, variables, image, grade):
    return m.class_activation_map(variables, image, grade)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(leaf).all()


@pytest.fixture(scope="module", params=sorted(COUNTS))
def name(request):
    return request.param


# The release's programs are large, and its two processes are replayed.
WITHOUT_RELEASE = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "release"))
        for name in sorted(COUNTS)
    ],
    indirect=True,
)


@pytest.fixture(scope="module")
def case(name):
    """The method, its variables, a batch, and loss and gradient on it."""
    m, batch = make(name), make_batch()
    variables = variables_of(m, batch)
    return m, variables, batch, loss_and_gradient(m, variables, batch)


def test_loss_and_gradients_are_finite_and_metrics_hold_the_total(case):
    m, _, _, ((value, aux), gradient) = case
    assert isinstance(m, base.Method)
    assert value > 0
    assert_finite((aux.metrics, gradient))
    assert aux.metrics["total"] == value
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0


def test_parameter_count(name, case):
    assert base.parameter_count(case[1].params) == COUNTS[name]


# Operation by operation, each a program of its own: of the two with views, four to
# twelve seconds.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) for n in sorted(COUNTS)],
    indirect=True,
)
def test_without_jit_it_is_the_same(case):
    m, variables, batch, ((value, _), _) = case
    with jax.disable_jit():
        got, _ = m.loss(variables, batch, methods.CTX)
    np.testing.assert_allclose(got, value, rtol=1e-5)


def test_the_order_of_the_batch_does_not_matter(name, case):
    m, variables, batch, ((value, _), _) = case
    order = np.array([2, 0, 3, 1])
    batch = jax.tree.map(lambda a: np.asarray(a)[order], batch)
    (again, _), _ = loss_and_gradient(m, variables, batch)
    if name in ORDERED:
        assert abs(float(again - value)) > 1e-4 * float(value), ORDERED[name]
    else:
        np.testing.assert_allclose(again, value, rtol=1e-5)


@WITHOUT_RELEASE
def test_two_devices_are_one(name, case):
    m, variables, batch, ((value, _), gradient) = case
    # Plain gradient descent at rate 1: the parameters' change is the gradient.
    descent = optimizer_that_returns_the_gradient()
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        # Copies, because the step donates them.
        params=jax.tree.map(np.copy, variables.params),
        state=jax.tree.map(np.copy, variables.state),
        opt_state=descent.init(variables.params),
    )
    step = parallel.train_step(
        m, descent, lambda b: b, jax.random.key(1), jax.local_devices()[:2]
    )
    schedule = training_state.Schedule(learning_rate=np.float32(1))
    after, metrics = step(state, parallel.to_devices(batch, 2), schedule, {})
    np.testing.assert_allclose(metrics["total"], value, rtol=1e-5)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(
        lambda a, b: np.asarray(a) - np.asarray(b), variables.params, after.params
    )
    for got, want in zip(
        jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5 * largest)


def optimizer_that_returns_the_gradient():
    import optax

    return optax.identity()


def test_prediction_needs_the_image_alone(case):
    m, variables, batch, _ = case
    assert m.inputs.test == ("image",)
    logits = applied(m, variables, Batch(image=batch.image)).logits
    assert logits.shape == (B, m.num_classes)
    assert_finite(logits)


def test_the_feature_is_what_the_logits_come_from(case):
    m, variables, batch, _ = case
    output = applied(m, variables, Batch(image=batch.image))
    v = np.asarray(output.features)
    assert v.shape == (B, m.network.encoder.size.width)
    logits = np.asarray(output.logits)
    tree = variables.params.get("model", variables.params)
    head = tree.get("global_classifier", tree.get("classifier"))
    again = v @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(again[:, : m.num_classes], logits, atol=1e-5)


def test_explanation_is_a_map_of_the_image(case):
    m, variables, batch, _ = case
    A = map_of(m, variables, batch.image, batch.grade)
    assert A.shape == (B, *SIDE)
    assert float(A.min()) >= 0
    assert float(A.max()) <= 1
    keep = m.patch_mask(A)
    assert keep.shape == (B, SIDE[0] // PATCH, SIDE[1] // PATCH)
    assert keep.dtype == bool


@WITHOUT_RELEASE
def test_no_biomarkers_and_five_classes(name):
    m = make(name, classes=5, biomarkers=0)
    batch = make_batch(classes=5, biomarkers=0)
    (_, aux), gradient = loss_and_gradient(m, variables_of(m, batch), batch)
    assert_finite((aux.metrics, gradient))


@pytest.mark.slow  # the same lines as five classes without biomarkers
def test_two_classes_and_six_biomarkers(name):
    # Nothing is empty here, so the loss is enough.
    m = make(name, classes=2, biomarkers=6)
    batch = make_batch(classes=2, biomarkers=6)
    value, aux = jax.device_get(loss_of(m, variables_of(m, batch), batch))
    assert_finite((value, aux.metrics))


def test_one_class_only_and_nothing_known(case):
    m, variables, batch, _ = case
    batch = batch.replace(
        grade=np.zeros_like(batch.grade), known=np.zeros_like(batch.known)
    )
    (_, aux), gradient = loss_and_gradient(m, variables, batch)
    assert_finite((aux.metrics, gradient))


def test_no_anchor_has_a_positive(case):
    m, variables, batch, _ = case
    # Every row another status, none of them normal.
    status = np.repeat(np.arange(1, B + 1, dtype=np.int32)[:, None], 2, axis=1)
    batch = batch.replace(biomarkers=status, known=np.ones((B, 2), bool))
    (_, aux), gradient = loss_and_gradient(m, variables, batch)
    assert_finite((aux.metrics, gradient))


def test_an_image_with_an_all_zero_map(case):
    m, variables, batch, _ = case
    # The head of the class score at 0: gradients of exactly 0. (Equal patches alone
    # give equal tokens up to rounding, and scaling by the maximum would show that.)
    heads = ("classifier", "global_classifier")

    def at_zero(path, a):
        return np.zeros_like(a) if any(k.key in heads for k in path) else a

    flat = jax.tree_util.tree_map_with_path(at_zero, variables.params)
    batch = batch.replace(image=np.ones_like(batch.image))
    given = Variables(params=flat, state=variables.state)
    A = map_of(m, given, batch.image, batch.grade)
    assert not np.asarray(m.patch_mask(A)).any()
    (_, aux), gradient = loss_and_gradient(m, given, batch)
    assert_finite((aux.metrics, gradient))


@pytest.mark.parametrize("name", ["fof"])
def test_without_frl_there_are_no_masked_views(name):
    m, batch = make(name, frl=False), make_batch()
    variables = variables_of(m, batch)
    (value, aux), _ = loss_and_gradient(m, variables, batch)
    assert "kept" not in aux.metrics
    assert aux.metrics["frl"] == 0
    assert aux.metrics["cls"] == aux.metrics["cls_glb"]
    np.testing.assert_allclose(value, aux.metrics["cls"] + 0.2 * aux.metrics["mca"])
    # The head keeps K + 1 outputs.
    assert variables.params["classifier"]["bias"].shape == (4,)


@pytest.mark.slow  # lambda_mca is a factor of the total, which Eq. (6)'s test has
def test_without_mca_the_projections_get_no_gradient():
    m, batch = make("fof", lambda_mca=0.0), make_batch()
    _, gradient = loss_and_gradient(m, variables_of(m, batch), batch)
    assert not np.asarray(gradient["projectors"]).any()


def test_moments_and_step_count_move():
    m, batch = make("vit"), make_batch()
    adamw = optimizer.adamw(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    state = training_state.initial_state(m, adamw, jax.random.key(0), batch)
    step = jax.jit(functools.partial(training_state.update, m, adamw))
    schedule = training_state.Schedule(learning_rate=jnp.float32(1e-3))
    after, metrics = step(state, batch, schedule, {}, jax.random.key(0))
    assert after.step == 1
    assert float(metrics["grad_norm"]) > 0
    state, after = jax.device_get((state, after))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state, after)
    assert all(x > 0 for x in jax.tree.leaves(moved.params))


def test_an_unknown_method_and_a_missing_field():
    with pytest.raises(ValueError, match="'fofo' does not exist. Expected one of fof"):
        registry.find("fofo")
    with pytest.raises(ValueError, match="'paper.losses' does not exist"):
        registry.find("paper.losses")
    config = methods.settings("fof")
    with config.unlocked():
        del config.tau
    with pytest.raises(ValueError, match="'fof'.* no field .*tau"):
        registry.create(config, DatasetInfo((), (), ()))


def test_every_method_is_tested():
    """Image rows here; the others, which read more, in files of their own."""
    own = {"omics", "pathgcn", "image", "abmil", "mean_pooling", *registry.IMAGE_ROWS}
    own |= {n for n in registry.names() if n.startswith(("fusion.", "distill."))}
    assert {*COUNTS, *own} == set(registry.names())


def test_cam_block_outside_the_encoder():
    m, batch = make("fof", cam_block=-3), make_batch()
    with pytest.raises(ValueError, match="cam.block: got -3, expected -2 … -1"):
        m.init(jax.random.key(0), batch, {})


@pytest.mark.parametrize("field", ["cam_scale", "views_fill", "cam_target"])
def test_other_readings_of_p3_and_p4_are_checked(field):
    name = field.replace("_", ".")
    with pytest.raises(ValueError, match=f"{name}: got 'no', expected one of"):
        make("fof", **{field: "no"})


@pytest.mark.slow  # one more program, as the next
def test_the_mask_token_stands_in_masked_patches():
    m, batch = make("fof", views_fill="token"), make_batch()
    variables = variables_of(m, batch)
    assert base.parameter_count(variables.params) == COUNTS["fof"] + 16
    grid = m.network.encoder.grid
    params = {"params": variables.params}

    @jax.jit
    def masked(keep, image):
        return m.network.apply(params, image, keep, method="masked").feature

    keep = np.ones((B, *grid), bool)
    whole = jax.jit(m.network.apply)(params, batch.image).feature
    np.testing.assert_array_equal(masked(keep, batch.image), whole)
    # What is behind a masked patch does not matter; what is in a kept one does.
    keep[:, 1, 2] = False
    p = PATCH
    behind, beside = np.array(batch.image), np.array(batch.image)
    behind[:, p : 2 * p, 2 * p : 3 * p] += 1
    beside[:, p : 2 * p, :p] += 1
    own, hidden, other = (masked(keep, x) for x in (batch.image, behind, beside))
    np.testing.assert_array_equal(own, hidden)
    assert not np.allclose(own, other)
    _, gradient = loss_and_gradient(m, variables, batch)
    assert np.abs(gradient["mask_token"]).max() > 0


@pytest.mark.slow
def test_masks_may_follow_the_prediction_in_place_of_the_grade():
    batch = make_batch(rows=8)
    usual, other = make("fof"), make("fof", cam_target="predicted")
    variables = variables_of(usual, batch)
    predicted = np.asarray(applied(usual, variables, batch).logits).argmax(axis=1)
    grade = np.asarray(batch.grade)
    assert (predicted != grade).any()

    @functools.partial(jax.jit, static_argnums=0)
    def keep(m, grade):
        return m.views(variables, batch.replace(grade=grade)).keep

    def masks(m, grade):
        return np.asarray(keep(m, grade))

    followed = masks(other, grade)
    np.testing.assert_array_equal(followed, masks(usual, predicted.astype(grade.dtype)))
    # Whatever the grade is.
    np.testing.assert_array_equal(followed, masks(other, (grade + 1) % 3))
    assert (masks(usual, grade) != followed).any()


def test_the_weight_of_a_view_is_in_the_total():
    batch = make_batch()
    usual, less = make("fof"), make("fof", lambda_pos=0.5, lambda_neg=0.0)
    variables = variables_of(usual, batch)
    whole, aux = loss_of(usual, variables, batch)
    part, again = loss_of(less, variables, batch)
    for name in ("cls_glb", "cls_pos", "cls_neg"):
        assert aux.metrics[name] == again.metrics[name]
    left_out = 0.5 * aux.metrics["cls_pos"] + aux.metrics["cls_neg"]
    assert float(whole - part) == pytest.approx(float(left_out), rel=1e-5)


def test_another_fill_alters_the_loss():
    batch = make_batch()
    usual, other = make("fof"), make("fof", views_fill="mean")
    variables = variables_of(usual, batch)
    values = [loss_of(m, variables, batch)[0] for m in (usual, other)]
    assert np.isfinite(values).all()
    assert values[0] != values[1]
