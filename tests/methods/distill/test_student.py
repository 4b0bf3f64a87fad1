"""The student: its loss by hand, two devices, the tested network, measured weights.

Two devices agree with one to 1e-5 of the largest entry, as sums in another order do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import (
    combine,
    crd,
    dc,
    dgkd_student,
    features_kl,
    heads,
    hkd,
    kl,
    pkt,
    rkd,
    sp,
    student,
    terms,
)
from fof_jax.types import Variables
from tests.methods.distill import networks

KL = kl.term(weight=1.0, temperature=1.0)


def pairwise(name, function, weight=0.5):
    def of(s, t):
        return function(student=s.features, teacher=t.features)

    return terms.Pairwise(name=name, weight=weight, of=of)


def rkd_of(*, student, teacher):
    return rkd.relational(
        student=student, teacher=teacher, distance_weight=25.0, angle_weight=50.0
    )


BANKS = {"weight": 0.02, "width": 4, "negatives": 9}
DC = BANKS | {
    "mode": "hard",
    "positives": 6,
    "kept_positives": 3,
    "kept_negatives": 5,
}
ROWS = {
    "kl": {"terms": (KL,)},
    "features_kl": {"terms": (KL, features_kl.FeaturesKL(weight=0.5))},
    "pkt": {"terms": (KL, pairwise("pkt", pkt.probabilistic_transfer, 30.0))},
    "sp": {"terms": (KL, pairwise("sp", sp.similarity_preserving, 3.0))},
    "rkd": {"terms": (KL, pairwise("rkd", rkd_of, 0.02))},
    "crd": {"terms": (KL, crd.CRD(**BANKS, ramp_epochs=30))},
    "hkd": {"terms": (KL, hkd.HKD(**BANKS))},
    "sckd": {
        "terms": (KL, features_kl.FeaturesKL(weight=0.5)),
        "rule": "agrees_sample",
    },
    "sckd batch": {
        "terms": (KL, features_kl.FeaturesKL(weight=0.5)),
        "rule": "agrees_batch",
        "factor": 2.0,
    },
    "xm2lr": {
        "terms": (KL, crd.CRD(**BANKS)),
        "rule": "running_counts",
    },
    "dgkd": {
        "terms": (
            KL,
            kl.term(weight=1.0, temperature=1.0, source="ema"),
            dc.DC(**DC),
            dc.DC(name="dc_ema", source="ema", **DC),
        ),
        "rule": "cosine_sums",
    },
}


def build(**options):
    return student.Student(
        encoder=networks.Encoder(),
        num_classes=networks.CLASSES,
        teacher=networks.Teacher(),
        **options,
    )


def assert_same(a, b, rtol=1e-5):
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    )
    for (path, x), y in leaves:
        scale = max(float(np.abs(y).max(initial=0)), 1e-6)
        np.testing.assert_allclose(
            x, y, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


# It has banks; hkd has running counts, too, and the others gather features in the same
# frame.
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (row != "xm2lr")) for row in ROWS],
)
def test_two_devices_give_the_loss_gradient_and_state_of_one(row):
    method = build(**ROWS[row])
    whole = networks.batch()
    variables = networks.started(method)
    value, g, state, _ = networks.one_device(method, variables, whole, 3)
    values, gs, states, _ = networks.two_devices(method, variables, whole, 3)
    assert np.isfinite(value)
    np.testing.assert_allclose(values, value, rtol=1e-6)
    assert_same(jax.tree.map(lambda x: x[0], gs), g)
    for device in (0, 1):
        assert_same(jax.tree.map(lambda x, d=device: x[d], states), state)
    for a in jax.tree.leaves(states):
        assert np.array_equal(a[0], a[1])


def test_the_loss_is_ce_plus_alpha_kl_plus_beta_r():
    method = build(**ROWS["sp"])
    variables, whole = networks.started(method), networks.batch()
    value, _, _, metrics = networks.one_device(method, variables, whole, 0)
    out = jax.jit(method.apply)(variables, whole)
    teacher = networks.Teacher().apply(variables.frozen["teacher"], whole)
    log_p = jax.nn.log_softmax(out.logits)
    ce = -np.mean([log_p[b, g] for b, g in enumerate(whole.grade)])
    log_t = jax.nn.log_softmax(teacher.logits)
    divergence = (np.exp(log_t) * (log_t - log_p)).sum(axis=1).mean()
    relation = sp.similarity_preserving(student=out.features, teacher=teacher.features)
    np.testing.assert_allclose(value, ce + divergence + 3 * relation, rtol=1e-5)
    assert {"total", "ce", "kl", "sp", "weight_kl", "weight_sp"} == set(metrics)
    np.testing.assert_allclose(metrics["sp"], relation, rtol=1e-5)


def test_weights_of_the_rule_are_those_of_gradients_on_the_feature():
    method = build(**ROWS["sckd"] | {"rule": "cosine_sums"})
    variables, whole = networks.started(method), networks.batch()
    _, _, _, metrics = networks.one_device(method, variables, whole, 0)
    teacher = networks.Teacher().apply(variables.frozen["teacher"], whole)
    head = variables.params["heads"]["features_kl"]
    classifier = variables.params["classifier"]

    def of(f):
        logits = heads.linear(classifier, f)
        projected = jax.nn.relu(heads.linear(head, f))
        log_p = jax.nn.log_softmax(logits)
        return (
            kl.divergence(
                student=logits, teacher=teacher.logits, temperature=1.0
            ).mean(),
            0.5
            * features_kl.features_divergence(
                student=projected, teacher=teacher.features
            ).mean(),
            -log_p[jnp.arange(8), whole.grade].mean(),
        )

    f = jax.jit(method.apply)(variables, whole).features
    separate = jax.jit(jax.jacrev(lambda f: jnp.stack(of(f))))(f)
    weights = combine.cosine_sums(separate, scaled=True)
    np.testing.assert_allclose(metrics["weight_kl"], weights[0], rtol=1e-4)
    np.testing.assert_allclose(
        metrics["weight_features_kl"], 0.5 * weights[1], rtol=1e-4
    )


def test_the_tested_network_is_the_encoder_and_a_linear_classifier():
    method = build(**ROWS["crd"])
    variables, whole = networks.started(method), networks.batch()
    assert set(variables.params) == {"encoder", "classifier", "heads"}
    alone = Variables(method.network.parameters(variables.params), {}, {})
    assert set(alone.params) == {"encoder", "classifier"}
    features = networks.Encoder().apply(
        {"params": variables.params["encoder"]}, whole.image, train=False
    )
    logits = features @ alone.params["classifier"]["kernel"]
    lacking = whole.replace(omics=None, second_view=None)
    out = jax.jit(method.apply)(variables, lacking)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-5, atol=1e-6)
    assert method.inputs.test == ("image",)
    assert method.inputs.train == ("image", "omics")
    assert method.inputs.second_view is None
    assert build(**ROWS["dgkd"]).inputs.second_view == "crop"


def test_the_beta_of_the_first_twenty_batches_is_kept_in_the_state():
    relation = pairwise("sp", sp.similarity_preserving, None)
    method = build(terms=(KL, relation))
    variables, whole = networks.started(method), networks.batch()

    @jax.jit
    def step(state):
        value, out = method.loss(
            variables.replace(state=state), whole, networks.context()
        )
        return value, out

    state = variables.state
    for _ in range(20):
        value, out = step(state)
        np.testing.assert_allclose(
            value, out.metrics["ce"] + out.metrics["kl"], rtol=1e-6
        )
        state = out.state
    value, out = step(state)
    beta = 0.5 * out.metrics["kl"] / out.metrics["sp"]
    np.testing.assert_allclose(out.metrics["weight_sp"], beta, rtol=1e-5)
    np.testing.assert_allclose(
        value, out.metrics["ce"] + 1.5 * out.metrics["kl"], rtol=1e-5
    )
    sums = state["measured"]
    np.testing.assert_allclose(0.5 * sums["divergence"] / sums["term"], beta, rtol=1e-5)


def test_only_one_weight_can_be_measured():
    two = tuple(pairwise(n, sp.similarity_preserving, None) for n in "ab")
    with pytest.raises(ValueError, match="at most one"):
        networks.started(build(terms=(KL, *two)))


def test_the_crd_ramp_is_the_epoch_over_its_length():
    method = build(**ROWS["crd"])
    variables, whole = networks.started(method), networks.batch()
    first = networks.one_device(method, variables, whole, 0)[3]["crd"]
    later = whole.replace(epoch=jnp.full(8, 4, jnp.int32))
    fifth = networks.one_device(method, variables, later, 0)[3]["crd"]
    np.testing.assert_allclose(fifth, 5 * first, rtol=1e-5)


def test_banks_of_the_batch_move_and_no_others():
    method = build(**ROWS["crd"])
    variables, whole = networks.started(method), networks.batch()
    state = networks.one_device(method, variables, whole, 0)[2]
    old, new = variables.state["terms"]["crd"], state["terms"]["crd"]
    moved = np.flatnonzero(np.any(old["student"] != new["student"], axis=1))
    assert moved.tolist() == sorted(((whole.index - 10) // 2).tolist())
    assert (new["Z"] > 0).all()
    again = networks.one_device(method, variables.replace(state=state), whole, 1)[2]
    assert np.array_equal(again["terms"]["crd"]["Z"], new["Z"])


def test_a_record_outside_of_the_fold_makes_the_loss_not_finite():
    method = build(**ROWS["crd"])
    variables, whole = networks.started(method), networks.batch()
    stray = whole.replace(index=whole.index.at[0].set(11))
    assert not np.isfinite(networks.one_device(method, variables, stray, 0)[0])


def test_the_average_teaches_as_a_copy_at_step_0_unless_independent():
    both = (KL, kl.term(weight=1.0, temperature=1.0, source="ema"))
    whole = networks.batch()
    whole = whole.replace(second_view=whole.image)
    for independent in (False, True):
        method = build(terms=both, independent_average=independent)
        variables = networks.started(method)
        # Pretrained weights that arrive after initialization.
        params = jax.tree.map(lambda p: np.asarray(p) + 0.1, variables.params)
        variables = variables.replace(params=params)
        same = networks.one_device(method, variables, whole, 0)[3]["kl_ema"]
        assert (same < 1e-6) != independent
        later = networks.one_device(method, variables, whole, 1)[3]["kl_ema"]
        assert later > 1e-6


def test_the_average_follows_parameters_and_not_heads():
    method = build(**ROWS["dgkd"])
    variables = networks.started(method)
    params = jax.tree.map(lambda p: np.asarray(p) + 1, variables.params)
    moved = variables.replace(params=params)
    state = jax.jit(method.update_state)(moved, jnp.asarray(1))
    average = state["average"]["params"]
    assert set(average) == {"encoder", "classifier"}
    np.testing.assert_allclose(
        average["classifier"]["bias"],
        0.5 * variables.params["classifier"]["bias"]
        + 0.5 * params["classifier"]["bias"],
        rtol=1e-6,
    )


def test_missing_teacher_labels_and_view_are_refused():
    method = build(**ROWS["dgkd"])
    with pytest.raises(ValueError, match="teacher's weights are missing"):
        method.init(jax.random.key(0), networks.batch(), {})
    without = {"teacher": networks.frozen()["teacher"]}
    with pytest.raises(ValueError, match='frozen\\["labels"\\]'):
        method.init(jax.random.key(0), networks.batch(), without)
    variables = networks.started(method)
    with pytest.raises(ValueError, match="no second view"):
        method.loss(variables, networks.batch(second_view=False), networks.context())


def test_hkd_refuses_seven_rows_through_the_student():
    method = build(**ROWS["hkd"])
    variables = networks.started(method)
    with pytest.raises(ValueError, match="batch of 7 rows"):
        jax.eval_shape(method.loss, variables, networks.batch(7), networks.context())


# One pair of rows is a case of its own only where pairs of the batch are compared.
SMALL = [(1, row) for row in ("features_kl", "pkt", "sp", "rkd", "crd", "dgkd")]
SMALL += [(2, row) for row in ("pkt", "sp", "rkd")]


@pytest.mark.parametrize(("size", "row"), SMALL)
def test_small_batches_are_finite(row, size):
    method = build(**ROWS[row])
    whole = networks.batch(size)
    value, g, state, _ = networks.one_device(method, networks.started(method), whole, 1)
    for leaf in jax.tree.leaves((value, g, state)):
        assert np.isfinite(leaf).all()


def test_the_features_need_one_width_without_a_head():
    method = build(terms=(KL, features_kl.FeaturesKL(weight=1.0, head=False)))
    with pytest.raises(ValueError, match="width 6 and the teacher's 5"):
        networks.started(method)


def test_published_order_and_numbers_of_the_dgkd_student():
    found = dgkd_student.term_tuple(alpha=1.0, beta=0.02, temperature=1.0)
    assert [t.name for t in found] == ["kl", "kl_ema", "dc", "dc_ema"]
    assert [t.source for t in found] == ["fixed", "ema", "fixed", "ema"]
    term = found[2]
    numbers = (term.positives, term.kept_positives, term.negatives, term.kept_negatives)
    assert numbers == (300, 20, 700, 512)
    assert (term.tau, term.momentum, term.mode, term.swapped) == (
        0.07,
        0.5,
        "mid",
        False,
    )


def test_teacher_and_labels_have_no_gradient():
    method = build(**ROWS["sp"])
    variables, whole = networks.started(method), networks.batch()

    def loss(params):
        teacher = Variables(params=params, state={}, frozen={})
        frozen = variables.frozen | {"teacher": teacher}
        return method.loss(variables.replace(frozen=frozen), whole, networks.context())[
            0
        ]

    g = jax.device_get(jax.jit(jax.grad(loss))(variables.frozen["teacher"].params))
    assert not any(leaf.any() for leaf in jax.tree.leaves(g))
