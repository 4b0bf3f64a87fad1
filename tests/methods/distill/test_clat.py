"""CLAT's networks, masks and loss terms against NumPy loops and hand-computed values.

Tolerances: 1e-5 relative for float32 against float64; oracles of METHODS.md section 9
as many digits as they print. Expectations over draws within 5 standard errors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import clat_layers as layers
from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_masks as masks
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill import clat_student, clat_teacher, ema
from tests.support.compiled import run


def rows(values):
    values = np.asarray(values, np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def as32(values):
    return jnp.asarray(values, jnp.float32)


# Query weights and gradient weights.


def test_query_weights_of_the_oracle():
    student = as32(np.log([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
    teacher = as32(np.log([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]]))
    weights = run(
        losses.query_weights,
        student=student,
        teacher=teacher,
        grade=jnp.array([0, 1, 0]),
        cap=1.0,
    )
    np.testing.assert_allclose(weights, [1.1823215568, 2.0, 1.0], rtol=1e-6)


def test_gradient_weights_of_the_oracle():
    terms = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [-1, 0, 0], [1, 0, 0]]
    weights = run(losses.gradient_weights, as32(terms)[:, None], threshold=0.25)
    np.testing.assert_array_equal(weights[0, :4], [3, 2, 4, 1])


def test_a_zero_gradient_agrees_with_nothing_not_even_itself():
    gradients = np.eye(5, dtype=np.float32)[:, None]
    gradients[1] = 0
    weights = run(losses.gradient_weights, gradients, threshold=0.25)
    np.testing.assert_array_equal(weights[0], [1, 0, 1, 1, 1])


def test_divergence_is_zero_for_equals_and_turns_the_teacher_first():
    teacher, student = as32([[1.0, 2, 0]]), as32([[0.0, 1, 3]])
    p, q = (np.exp(a) / np.exp(a).sum() for a in map(np.asarray, (teacher, student)))
    ours = run(losses.divergence, student=student, teacher=teacher)
    np.testing.assert_allclose(ours, [(p * np.log(p / q)).sum()], rtol=1e-6)
    assert run(losses.divergence, student=teacher, teacher=teacher) == 0


# The contrast.


def test_one_side_with_equal_scores():
    # METHODS.md 6.6: x = .1, K = 3, n = 10 give 2.24934, whatever the weights.
    scores = jnp.full((2, 4), 0.1)
    ours = run(losses.neighbor_contrast, scores, as32([[1.0], [0.3]]), rows=10)
    np.testing.assert_allclose(ours, [2.2493415785] * 2, rtol=1e-6)


def test_a_step_with_banks_of_the_oracle():
    cell = 3 * np.arange(6)[:, None] + np.arange(3)
    m_s, m_t = rows(np.sin(1 + cell)), rows(np.cos(cell))
    v_s, v_t = rows([[1, 2, 3], [0, 1, -1]]), rows([[1, 0, 1], [2, 1, 0]])
    candidates, index = jnp.array([[0, 1, 2], [3, 4, 5]]), jnp.array([0, 3])
    expected = {"z": (1078.5525, 19227.371), "loss": (8.939077, 11.073928)}
    for side, (v, bank) in enumerate(((v_s, m_t), (v_t, m_s))):
        x = run(
            losses.candidate_scores, as32(v), as32(bank), candidates, temperature=0.07
        )
        z = run(losses.normalizer, x, jnp.float32(-1), rows=6)
        assert float(z) == pytest.approx(expected["z"][side], rel=1e-5)
        assert float(run(losses.normalizer, x, jnp.float32(7), rows=6)) == 7
        loss = run(losses.neighbor_contrast, x / z, jnp.ones((2, 1)), rows=6).mean()
        assert float(loss) == pytest.approx(expected["loss"][side], rel=1e-5)
    moved_s = run(losses.moved_bank, as32(m_s), index, as32(v_s), momentum=0.5)
    moved_t = run(losses.moved_bank, as32(m_t), index, as32(v_t), momentum=0.5)
    np.testing.assert_allclose(moved_s[0], [0.5169060, 0.6933905, 0.5020138], 1e-5)
    np.testing.assert_allclose(moved_t[3], [0.5678692, -0.8230196, 0.0127744], 1e-4)
    kept = np.array([1, 2, 4, 5])
    np.testing.assert_array_equal(moved_s[kept], m_s[kept].astype(np.float32))


def test_neighbors_are_the_nearest_rows_of_the_class():
    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    labels[[4, 9]], labels[[0, 1, 2]] = -1, [0, 1, 2]
    index = np.array([0, 1, 2, 7])
    result = run(
        losses.nearest_of_class,
        as32(bank),
        jnp.asarray(labels),
        jnp.asarray(index),
        count=4,
    )
    for b, row in enumerate(index):
        cosine = rows(bank) @ rows(bank)[row]
        cosine = np.where(labels == labels[row], cosine, 0)
        nearest = sorted(range(20), key=lambda i: -cosine[i])[:4]
        np.testing.assert_allclose(result.weight[b], cosine[nearest], atol=1e-6)
        positive = cosine[nearest] > 0
        np.testing.assert_array_equal(
            result.rows[b][positive], np.array(nearest)[positive]
        )
        assert int(result.rows[b][0]) == row


def test_a_small_class_is_filled_up_with_weight_0():
    bank = as32(np.eye(6))
    labels = jnp.array([0, 1, 1, 1, 1, 1])
    result = run(losses.nearest_of_class, bank, labels, jnp.array([0]), count=3)
    np.testing.assert_array_equal(result.weight, [[1, 0, 0]])
    scores = jnp.array([[0.2, 0.4, 0.9, 0.1]])
    alone = run(losses.neighbor_contrast, scores[:, [0, 3]], jnp.ones((1, 1)), rows=6)
    filled = run(losses.neighbor_contrast, scores, result.weight, rows=6)
    np.testing.assert_allclose(filled, alone, rtol=1e-6)


def test_negatives_are_all_other_rows_with_equal_probability():
    labels = jnp.array([0, 1, -1, 2, 0, -1, 1, 1])
    index = jnp.array([0, 4, 7])
    sampled = np.asarray(
        run(losses.sample_negatives, jax.random.key(0), labels, index, count=20_000)
    )
    for row, negatives in zip([0, 4, 7], sampled, strict=True):
        others = [i for i in (0, 1, 3, 4, 6, 7) if i != row]
        counts = np.bincount(negatives, minlength=8)
        assert counts[others].sum() == 20_000
        assert np.abs(counts[others] - 4000).max() < 5 * np.sqrt(4000 * 0.8)


def test_the_banks_and_the_query_have_no_gradient():
    def loss(bank, logits):
        x = losses.candidate_scores(
            jnp.ones((1, 2)), bank, jnp.array([[0, 1]]), temperature=1.0
        )
        q = losses.query_weights(
            student=logits, teacher=-logits, grade=jnp.array([0]), cap=1.0
        )
        return (x * q[:, None]).sum()

    graded = jax.grad(loss, (0, 1))
    for gradient in run(graded, np.ones((3, 2), np.float32), as32([[0.1, 0.2]])):
        assert not gradient.any()


def test_terms_and_gradients_are_finite_where_features_are_zero():
    key = jax.random.key(0)
    start = run(network.init_image_head, key, encoded=3, width=4, classes=3)
    head, moving = jax.tree.map(jnp.asarray, start)
    params = {"head": head}
    zero = {"student": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)}}
    zero["teacher"] = zero["student"]
    params |= {"fused": zero, "ema": zero}
    memories = {
        name: jax.tree.map(
            jnp.asarray, run(clat_student.init_memory, key, rows=6, width=5)
        )
        for name in ("fused", "ema")
    }
    labels, index = jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([0, 1])
    teacher = network.Branch(jnp.zeros((2, 4)), jnp.zeros((2, 3)))

    def loss(params):
        return clat_student.student_step(
            params,
            moving,
            memories,
            encoded=jnp.array([[0.0, 1, 2], [0, 1, 2]]),
            teachers={"fused": teacher, "ema": teacher},
            neighbors={
                name: clat_student.nearest(m, labels, index, count=2)
                for name, m in memories.items()
            },
            negatives=jnp.array([[1, 2, 3], [0, 2, 3]]),
            index=index,
            grade=jnp.array([0, 1]),
            settings=clat_student.Settings(1.0, 0.05, 0.07, 0.5, 1.0, 0.25),
        ).total

    value, gradient = run(jax.value_and_grad(loss), params)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((value, gradient)))


# Masks.


def test_the_superpixel_of_the_largest_signed_mean_is_masked():
    labels = jnp.array([[[0, 0, 1], [2, 2, 1]]])
    gradient = as32([[[1.0, 1, 1.5], [-9, -9, 1.5]]])[..., None]
    scores = run(
        masks.superpixel_scores, gradient, labels, capacity=5, absent_zero=False
    )
    np.testing.assert_allclose(scores, [[1, 1.5, -9, -np.inf, -np.inf]])
    one = run(masks.superpixel_mask, scores, labels, count=1)
    np.testing.assert_array_equal(one[0], [[0, 0, 1], [0, 0, 1]])
    two = run(masks.superpixel_mask, scores, labels, count=2)
    np.testing.assert_array_equal(two[0], [[1, 1, 1], [0, 0, 1]])
    # Of five places only three superpixels exist.
    assert run(masks.superpixel_mask, scores, labels, count=5).all()


def test_an_absent_label_can_win_as_published_and_masks_nothing():
    labels = jnp.array([[[0, 0], [0, 2]], [[3, 0], [0, 0]]])
    gradient = -jnp.ones((2, 2, 2, 1))
    for absent_zero, masked in ((True, 0), (False, 1)):
        scores = run(
            masks.superpixel_scores,
            gradient,
            labels,
            capacity=6,
            absent_zero=absent_zero,
        )
        assert np.isneginf(scores[:, 4:]).all()
        result = run(masks.superpixel_mask, scores, labels, count=1)
        assert bool(result.any()) == bool(masked)


def test_ties_at_the_last_omic_mask_more():
    gradient = as32([[3.0, 2, 2, 1, -5], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(
        run(masks.omic_mask, gradient, count=2), [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    )


# Layers.


def test_batch_norm_moves_to_the_unbiased_variance():
    x = np.random.default_rng(1).normal(3, 2, (5, 2))
    params, statistics = layers.init_norm(2)
    y, moved = run(layers.batch_norm, as32(x), params, statistics, train=True)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    y, same = run(layers.batch_norm, as32(x), params, moved, train=False)
    np.testing.assert_array_equal(same["var"], moved["var"])
    expected = (x - 0.1 * x.mean(0)) / np.sqrt(np.asarray(moved["var"]) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="1 row in training"):
        run(layers.batch_norm, as32(x)[:1], params, statistics, train=True)


@pytest.mark.parametrize("kind", [layers.dropout, layers.alpha_dropout])
def test_dropout_keeps_mean_and_alpha_dropout_the_variance_too(kind):
    x = np.random.default_rng(0).standard_normal((400, 500), np.float32)
    x = jnp.asarray(x)
    assert kind(x, 0.3, None) is x
    y = np.asarray(jax.jit(lambda x, k: kind(x, 0.3, k))(x, jax.random.key(1)))
    assert abs(y.mean() - np.asarray(x).mean()) < 5 * y.std() / np.sqrt(y.size)
    if kind is layers.alpha_dropout:
        assert y.std() == pytest.approx(1, abs=0.01)


def test_the_kronecker_product_is_row_major_with_the_ones_last():
    # o1 = [1, 2] and o2 = [3, 4] give k = [3, 4, 1, 6, 8, 2, 3, 4, 1].
    def still(bias):
        return {"kernel": jnp.zeros((2, 2)), "bias": as32(bias)}

    key = jax.random.key(0)
    params, statistics = run(network.init_fusion, key, width=2)
    params |= {"o1": still([1, 2]), "o2": still([3, 4])}
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    k = []
    for i in range(9):
        picks = np.zeros((9, 2), np.float32)
        picks[i, 0] = 1
        first = {"kernel": picks, "bias": np.zeros(2, np.float32)}
        out, _ = run(
            network.gated_fusion,
            params | {"encoder1": first, "encoder2": identity},
            statistics,
            jnp.ones((1, 2)),
            jnp.ones((1, 2)),
            train=False,
        )
        k.append(float(out[0, 0]) * (1 + 1e-5))
    np.testing.assert_allclose(k, [3, 4, 1, 6, 8, 2, 3, 4, 1], rtol=1e-5)


def test_the_gate_is_bilinear_in_both_features():
    rng = np.random.default_rng(2)
    params, statistics = run(network.init_fusion, jax.random.key(1), width=3)
    image, omic = (np.maximum(rng.normal(size=(2, 3)), 0) for _ in range(2))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    gated = []
    for i, v in ((1, image), (2, omic)):
        h = np.maximum(v @ p[f"h{i}"]["kernel"] + p[f"h{i}"]["bias"], 0)
        z = np.array([
            [a @ p[f"z{i}"]["kernel"][o] @ b + p[f"z{i}"]["bias"][o] for o in range(3)]
            for a, b in zip(image, omic, strict=True)
        ])  # fmt: skip
        o = (h / (1 + np.exp(-z))) @ p[f"o{i}"]["kernel"] + p[f"o{i}"]["bias"]
        gated.append(np.c_[np.maximum(o, 0), np.ones(2)])
    x = np.stack([np.outer(a, b).ravel() for a, b in zip(*gated, strict=True)])
    for i in (1, 2):
        x = x @ p[f"encoder{i}"]["kernel"] + p[f"encoder{i}"]["bias"]
        x = np.maximum(x / np.sqrt(1 + 1e-5), 0)
    ours, _ = run(
        network.gated_fusion, params, statistics, as32(image), as32(omic), train=False
    )
    np.testing.assert_allclose(ours, x, rtol=1e-5, atol=1e-6)


def test_parameters_of_the_published_widths():
    sizes = {"encoded": 512, "omics": 80, "width": 128, "classes": 3}
    start = functools.partial(network.init_multimodal, **sizes)
    params, _ = jax.eval_shape(start, jax.random.key(0))
    count = {k: sum(a.size for a in jax.tree.leaves(v)) for k, v in params.items()}
    assert count["omic"] == 14_483
    assert count["fusion"] == 6_407_808


# Stage 1.


def teacher_step(trees, options):
    """The step, compiled, which is quicker than one operation after the other."""
    static = {k: options[k] for k in ("ema_train", "lambda_l1", "l1_constant")}
    arrays = {k: v for k, v in options.items() if k not in static}

    @jax.jit
    def run(trees, arrays):
        return clat_teacher.teacher_step(*trees, **arrays, **static)

    return run(trees, arrays)


def _teacher_inputs(masking=1.0, ema_train=True):
    keys = jax.random.split(jax.random.key(3), 8)
    sizes = {"encoded": 5, "omics": 7, "width": 4, "classes": 3}
    start = jax.jit(functools.partial(network.init_multimodal, **sizes))
    (params, moving), (average, average_moving) = start(keys[0]), start(keys[1])
    rng = np.random.default_rng(3)
    encoded = clat_teacher.Encoded(*as32(rng.normal(size=(5, 6, 5))))
    omics = as32(rng.normal(size=(6, 7)))
    options = {
        "encoded": encoded,
        "omics": omics,
        "omic_mask": omics > 1,
        "grade": jnp.array([0, 1, 2, 0, 1, 2]),
        "lambda_l1": 3e-4,
        "l1_constant": 9.0,
        "ema_train": ema_train,
        "masking": masking,
    }
    return (params, average, moving, average_moving), options


@pytest.mark.slow
def test_without_masking_the_masked_passes_leave_no_trace():
    trees, options = _teacher_inputs(masking=0.0)
    ours = teacher_step(trees, options)
    t = ours.terms
    expected = sum(
        t[f"{a}_{b}"] for a in ("ce", "kl") for b in ("image", "omic", "fused")
    )
    np.testing.assert_allclose(ours.total, expected + 3e-4 * t["l1"], rtol=1e-6)
    other = options["encoded"]._replace(masked_image=jnp.zeros((6, 5)))
    other = teacher_step(trees, options | {"encoded": other})
    jax.tree.map(np.testing.assert_array_equal, ours.statistics, other.statistics)


@pytest.mark.slow
def test_the_moving_average_has_no_gradient_and_in_evaluation_no_statistics():
    trees, options = _teacher_inputs(ema_train=False)

    def loss(average):
        return teacher_step((trees[0], average, *trees[2:]), options).total

    gradient = run(jax.grad(loss), trees[1])
    assert not any(a.any() for a in jax.tree.leaves(gradient))
    out = teacher_step(trees, options)
    jax.tree.map(np.testing.assert_array_equal, out.statistics, out.ema_statistics)


def test_the_moving_average_copies_at_step_0_and_then_slows_down():
    weights = [float(ema.alpha(t, decay=0.99)) for t in (0, 1, 3, 10**6)]
    np.testing.assert_allclose(weights, [0, 0.5, 0.75, 0.99], rtol=1e-6)
