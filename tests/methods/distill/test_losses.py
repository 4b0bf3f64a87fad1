"""The pairwise distillation losses against plain NumPy loops in float64.

Losses agree to 1e-5 of max(|loss|, 0.01), PKT to 5e-4 of max(|loss|, 1e-4), because it
is a difference of near logarithms in float32. Gradients agree with central differences
of the loops to 1e-4 of the largest entry (PKT 1e-3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import features_kl, kl, pkt, rkd, sp


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kl_loop(s, t, temperature=1.0):
    total = 0.0
    for a, b in zip(s, t, strict=True):
        p_s, p_t = softmax(a / temperature), softmax(b / temperature)
        for q_s, q_t in zip(p_s, p_t, strict=True):
            total += temperature**2 * q_t * (np.log(q_t) - np.log(q_s))
    return total / len(s)


def pkt_loop(s, t, diagonal=True):
    def conditional(f):
        u = [row / (np.sqrt((row**2).sum()) + 1e-7) for row in f]
        k = np.array([[(a @ b + 1) / 2 for b in u] for a in u])
        if not diagonal:
            k = k * (1 - np.eye(len(f)))
        return k / k.sum(axis=1, keepdims=True)

    p_s, p_t = conditional(s), conditional(t)
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            total += p_t[i, j] * np.log((p_t[i, j] + 1e-7) / (p_s[i, j] + 1e-7))
    return total / len(s) ** 2


def sp_loop(s, t):
    def rows(f):
        g = f @ f.T
        return [row / max(np.sqrt((row**2).sum()), 1e-12) for row in g]

    pairs = zip(rows(s), rows(t), strict=True)
    return sum(((a - b) ** 2).sum() for a, b in pairs) / len(s) ** 2


def smooth_l1(x):
    return 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5


def distances_loop(f):
    b = len(f)
    d = np.zeros((b, b))
    for i in range(b):
        for j in range(b):
            if i != j:
                d[i, j] = np.sqrt(max(((f[i] - f[j]) ** 2).sum(), 1e-12))
    positive = d[d > 0]
    return d / positive.mean() if len(positive) else d


def angles_loop(f):
    b = len(f)
    a = np.zeros((b, b, b))
    for i in range(b):
        for j in range(b):
            for k in range(b):
                x, y = f[j] - f[i], f[k] - f[i]
                norm = np.sqrt((x**2).sum()) * np.sqrt((y**2).sum())
                a[i, j, k] = x @ y / norm if norm > 0 else 0
    return a


def rkd_loop(s, t, distance=25.0, angle=50.0):
    d = distances_loop(s) - distances_loop(t)
    a = angles_loop(s) - angles_loop(t)
    return distance * np.mean([smooth_l1(x) for x in d.ravel()]) + angle * np.mean(
        [smooth_l1(x) for x in a.ravel()]
    )


def rkd_of(s, t):
    return rkd.relational(student=s, teacher=t, distance_weight=25.0, angle_weight=50.0)


def kl_of(s, t, temperature=1.0):
    return kl.divergence(student=s, teacher=t, temperature=temperature).mean()


# Each one program: operation by operation they would be dozens.
CASES = {
    "kl": (jax.jit(kl_of, static_argnums=2), kl_loop),
    "feats_kl": (
        jax.jit(
            lambda s, t: features_kl.features_divergence(student=s, teacher=t).mean()
        ),
        kl_loop,
    ),
    "pkt": (
        jax.jit(lambda s, t: pkt.probabilistic_transfer(student=s, teacher=t)),
        pkt_loop,
    ),
    "sp": (
        jax.jit(lambda s, t: sp.similarity_preserving(student=s, teacher=t)),
        sp_loop,
    ),
    "rkd": (jax.jit(rkd_of), rkd_loop),
}


def features(batch, width, seed):
    return np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32)


@pytest.fixture(scope="module")
def oracle():
    b, d = np.mgrid[:4, :5]
    c_b, c = np.mgrid[:4, :3]
    arrays = (
        np.sin(1 + 5 * b + d),
        np.cos(0.5 * (5 * b + d)),
        np.sin(0.7 * (3 * c_b + c)),
        2 * np.cos(0.3 * (3 * c_b + c)),
    )
    return [jnp.asarray(a, jnp.float32) for a in arrays]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feats_kl", 0.25731812744991495),
        ("pkt", 0.21950190859800567),
        ("sp", 0.4621562507422404),
        ("rkd", 9.046231340523683),
    ],
)
def test_published_values_of_features(oracle, name, value):
    f_s, f_t, _, _ = oracle
    np.testing.assert_allclose(CASES[name][0](f_s, f_t), value, rtol=1e-5)


@pytest.mark.parametrize(
    ("temperature", "value"), [(1.0, 0.09460356299807038), (4.0, 0.09931327074729268)]
)
def test_published_values_of_logits(oracle, temperature, value):
    _, _, y_s, y_t = oracle
    np.testing.assert_allclose(CASES["kl"][0](y_s, y_t, temperature), value, rtol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_loss_and_gradient_are_those_of_the_loop(name):
    ours, loop = CASES[name]
    s, t = features(5, 4, 0), features(5, 4, 1)
    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(s), jnp.asarray(t))
    s64, t64 = s.astype(np.float64), t.astype(np.float64)
    wanted = loop(s64, t64)
    rtol, floor = (5e-4, 1e-4) if name == "pkt" else (1e-5, 1e-2)
    assert abs(value - wanted) <= rtol * max(abs(wanted), floor)
    numeric = np.zeros_like(s64)
    for index in np.ndindex(*s.shape):
        step = np.zeros_like(s64)
        step[index] = 1e-5
        numeric[index] = (loop(s64 + step, t64) - loop(s64 - step, t64)) / 2e-5
    tolerance = 1e-3 if name == "pkt" else 1e-4
    np.testing.assert_allclose(
        gradient, numeric, atol=tolerance * np.abs(numeric).max()
    )


@pytest.mark.parametrize("name", list(CASES))
def test_the_teacher_has_no_gradient_and_rows_may_be_permuted(name):
    ours, _ = CASES[name]
    s, t = features(6, 4, 2), features(6, 4, 3)
    assert not np.any(jax.jit(jax.grad(ours, argnums=1))(s, t))
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(ours(s[order], t[order]), ours(s, t), rtol=1e-4)
    np.testing.assert_allclose(ours(s, s), 0, atol=1e-6)


def test_invariances_of_the_relational_losses():
    s, t = features(5, 4, 4), features(5, 4, 5)
    of = CASES["sp"][0]
    np.testing.assert_allclose(of(3 * s, 0.2 * t), of(s, t), rtol=1e-5)
    of = CASES["rkd"][0]
    np.testing.assert_allclose(of(3 * s + 7, 0.2 * t - 1), of(s, t), rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
def test_rkd_of_one_and_two_rows_is_zero_and_finite(batch):
    s, t = jnp.asarray(features(batch, 3, 6)), jnp.asarray(features(batch, 3, 7))
    value, gradient = jax.jit(jax.value_and_grad(rkd_of))(s, t)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["pkt", "sp", "rkd"])
def test_zero_and_equal_rows_have_finite_gradients(name):
    ours, loop = CASES[name]
    s = features(5, 4, 8)
    s[1] = 0
    s[3] = s[4]
    t = features(5, 4, 9)
    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(ours))(s, t))
    wanted = loop(s.astype(np.float64), t.astype(np.float64))
    np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-7)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e3
    if name == "pkt":
        assert not gradient[1].any()


def test_equal_rows_count_in_the_mean_distance_of_rkd():
    s, t = features(4, 3, 10), features(4, 3, 11)
    s[0] = s[1]

    def without(f):  # the misreading: only pairs that are apart count
        d = distances_loop(f)
        far = d > 1e-3
        return d / d[far].mean()

    right = np.mean(
        [smooth_l1(x) for x in (distances_loop(s) - distances_loop(t)).flat]
    )
    wrong = np.mean([smooth_l1(x) for x in (without(s) - without(t)).flat])
    weighted = functools.partial(rkd.relational, distance_weight=1.0, angle_weight=0.0)
    ours = jax.jit(weighted)(student=s, teacher=t)
    np.testing.assert_allclose(ours, right, rtol=1e-4)
    assert abs(ours - wrong) > 1e-2 * right


def test_the_diagonal_counts_in_pkt():
    s, t = features(5, 4, 12), features(5, 4, 13)
    ours = CASES["pkt"][0](s, t)
    wrong = pkt_loop(s.astype(np.float64), t.astype(np.float64), diagonal=False)
    assert abs(ours - wrong) > 0.1 * abs(wrong)


def test_temperature_scales_the_divergence():
    s, t = features(3, 4, 14), features(3, 4, 15)
    ours = float(CASES["kl"][0](s, t, 4.0))
    np.testing.assert_allclose(ours, kl_loop(s, t, 4.0), rtol=1e-5)
    assert abs(ours - kl_loop(s, t, 4.0) / 16) > 0.5 * ours
    assert abs(ours - kl_loop(t, s, 4.0)) > 1e-3 * ours
