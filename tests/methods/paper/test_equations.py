"""Eq. (1)-(6) against plain NumPy loops in float64, written from the paper's text.

Tolerance: 2e-6 relative, float32 against float64, unless a line says otherwise.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.paper import cam, losses, views
from tests.support.compiled import run

TOLERANCE = 2e-6
TAU = 0.07


def rng(seed=0):
    return np.random.default_rng(seed)


def cosine(a, b):
    return float(a @ b / (max(np.linalg.norm(a), 1e-8) * max(np.linalg.norm(b), 1e-8)))


# --- Eq. (1) ---


def test_eq1_alpha_is_summed_over_the_grid_and_weighs_channels():
    r = rng()
    tokens = r.standard_normal((2, 6, 5)).astype(np.float32)
    gradient = r.standard_normal((2, 6, 5)).astype(np.float32)
    alpha, relu_map = run(
        cam.weighted_sum,
        tokens=jnp.asarray(tokens),
        gradient=jnp.asarray(gradient),
        grid=(2, 3),
    )
    for b in range(2):
        for k in range(5):
            by_hand = sum(float(gradient[b, i, k]) for i in range(6))
            assert alpha[b, k] == pytest.approx(by_hand, rel=TOLERANCE, abs=1e-6)
        for i in range(6):
            evidence = sum(float(alpha[b, k] * tokens[b, i, k]) for k in range(5))
            got = relu_map[b, i // 3, i % 3]
            assert got == pytest.approx(max(evidence, 0), rel=TOLERANCE, abs=1e-6)


def test_eq1_gradient_is_that_of_the_target_logit():
    r = rng(1)
    weight = jnp.asarray(r.standard_normal((5, 4)), jnp.float32)
    tokens = jnp.asarray(r.standard_normal((3, 6, 5)), jnp.float32)
    target = np.array([2, 0, 3], np.int32)

    def logits_of(v):
        return jnp.tanh(v).sum(axis=1) @ weight

    got = run(cam.token_gradient, logits_of=logits_of, tokens=tokens, target=target)
    # d/dv of w . sum tanh(v) is w (1 - tanh^2 v).
    want = (1 - np.tanh(tokens) ** 2) * np.asarray(weight).T[target][:, None]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (9, 15)])
def test_eq1_upsampling_is_bilinear_with_half_pixel_centres(size):
    small = rng(2).random((1, 4, 5)).astype(np.float32)
    got = run(cam.upsample, jnp.asarray(small), image_size=size)[0]
    for y in range(size[0]):
        for x in range(size[1]):
            sy = (y + 0.5) * 4 / size[0] - 0.5
            sx = (x + 0.5) * 5 / size[1] - 0.5
            y0, x0 = int(np.floor(sy)), int(np.floor(sx))
            wy, wx = sy - y0, sx - x0
            ys = [min(max(i, 0), 3) for i in (y0, y0 + 1)]  # borders replicated
            xs = [min(max(i, 0), 4) for i in (x0, x0 + 1)]
            want = (
                (1 - wy) * (1 - wx) * small[0, ys[0], xs[0]]
                + (1 - wy) * wx * small[0, ys[0], xs[1]]
                + wy * (1 - wx) * small[0, ys[1], xs[0]]
                + wy * wx * small[0, ys[1], xs[1]]
            )
            assert got[y, x] == pytest.approx(want, abs=1e-6)


def test_eq1_min_max_and_a_constant_map():
    maps = np.stack([rng(3).random((4, 4)) * 7 + 3, np.full((4, 4), 2.5)])
    got = run(cam.min_max, jnp.asarray(maps, jnp.float32))
    low, high = maps[0].min(), maps[0].max()
    np.testing.assert_allclose(got[0], (maps[0] - low) / (high - low), atol=1e-6)
    assert got[0].min() == 0
    assert got[0].max() == 1
    assert not got[1].any()  # P3: constant becomes 0, nothing is kept


def test_eq1_over_max_keeps_the_ground():
    maps = np.stack([rng(3).random((4, 4)) * 7 + 3, np.zeros((4, 4))])
    got = run(cam.over_max, jnp.asarray(maps, jnp.float32))
    np.testing.assert_allclose(got[0], maps[0] / maps[0].max(), atol=1e-6)
    assert got[0].min() > 0.25  # min-max would make it 0
    assert not got[1].any()


@pytest.mark.parametrize("scale", ["minmax", "max"])
def test_eq1_scale_is_the_one_asked_for(scale):
    tokens = jnp.asarray(rng(4).random((2, 6, 5)) + 1, jnp.float32)
    found = cam.class_activation_map(
        logits_of=lambda v: v.sum(axis=1),  # ds/dv is 1 in the target's channel
        tokens=tokens,
        target=jnp.array([0, 3]),
        grid=(2, 3),
        image_size=(4, 6),
        scale=scale,
    )
    assert found.relu_map.min() > 0
    assert found.A.max() == 1
    assert (found.A.min() == 0) == (scale == "minmax")


# --- Eq. (2) ---


def test_eq2_mask_is_strictly_above_theta():
    A = np.zeros((1, 4, 6), np.float32)
    A[0, :2, :2] = 0.5  # exactly theta: not kept
    A[0, :2, 2:4] = [[1, 1], [1, 0]]  # mean 0.75
    A[0, 2:, 4:] = [[0, 1], [1, 0.25]]  # mean 0.5625
    keep = run(views.keep_mask, jnp.asarray(A), patch=2, theta=0.5)
    assert np.array_equal(keep[0], [[False, True, False], [False, False, True]])


def test_eq2_views_are_the_image_where_kept_and_zero_elsewhere():
    r = rng(4)
    image = r.standard_normal((2, 4, 6, 3)).astype(np.float32)
    keep = r.random((2, 2, 3)) > 0.5
    pos, neg = run(views.split, jnp.asarray(image), jnp.asarray(keep), patch=2)
    for b in range(2):
        for y in range(4):
            for x in range(6):
                kept = keep[b, y // 2, x // 2]
                assert np.array_equal(pos[b, y, x], image[b, y, x] * kept)
                assert np.array_equal(neg[b, y, x], image[b, y, x] * (not kept))


def test_eq2_views_filled_with_the_mean_colour():
    r = rng(5)
    image = r.standard_normal((2, 4, 6, 3)).astype(np.float32)
    keep = r.random((2, 2, 3)) > 0.5
    pos, neg = run(
        views.split, jnp.asarray(image), jnp.asarray(keep), patch=2, fill="mean"
    )
    for b in range(2):
        colour = [np.mean([image[b, y, x, c] for y in range(4) for x in range(6)])
                  for c in range(3)]  # fmt: skip
        for y in range(4):
            for x in range(6):
                kept = keep[b, y // 2, x // 2]
                shown, hidden = (pos, neg) if kept else (neg, pos)
                assert np.array_equal(shown[b, y, x], image[b, y, x])
                np.testing.assert_allclose(hidden[b, y, x], colour, atol=1e-6)


# --- Eq. (3) ---


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_eq3_three_cross_entropies(classes):
    r = rng(5)
    glb, pos, neg = r.standard_normal((3, 4, classes + 1)) * 3
    grade = r.integers(0, classes, 4)

    def entropy(logits, label):
        return -np.log(np.exp(logits[label]) / np.exp(logits).sum())

    got = run(
        losses.classification,
        glb=jnp.asarray(glb, jnp.float32),
        pos=jnp.asarray(pos, jnp.float32),
        neg=jnp.asarray(neg, jnp.float32),
        grade=jnp.asarray(grade, jnp.int32),
        background=classes,
    )
    want = sum(
        entropy(glb[i], grade[i]) + entropy(pos[i], grade[i]) + entropy(neg[i], classes)
        for i in range(4)
    )
    assert got["cls"] == pytest.approx(want / 4, rel=TOLERANCE)


def test_eq3_terms_may_be_weighed():
    r = rng(13)
    glb, pos, neg = r.standard_normal((3, 4, 4)).astype(np.float32)
    given = {"glb": jnp.asarray(glb), "pos": jnp.asarray(pos), "neg": jnp.asarray(neg)}
    grade = jnp.asarray([0, 2, 1, 2], jnp.int32)
    plain = run(losses.classification, **given, grade=grade, background=3)
    got = run(
        losses.classification,
        **given,
        grade=grade,
        background=3,
        lambda_pos=0.25,
        lambda_neg=3.0,
    )
    for name in ("cls_glb", "cls_pos", "cls_neg"):
        assert got[name] == plain[name]
    g, p, n = (float(plain[f"cls_{view}"]) for view in ("glb", "pos", "neg"))
    assert got["cls"] == pytest.approx(g + p / 4 + 3 * n, rel=TOLERANCE)


def test_class_weights_weigh_rows_against_their_grade_alone():
    r = rng(12)
    glb, pos, neg = r.standard_normal((3, 4, 4)).astype(np.float32)
    grade = jnp.asarray([0, 2, 1, 2], jnp.int32)
    weight = jnp.asarray([2.0, 0.5, 0.0, 1.0])
    given = {"glb": jnp.asarray(glb), "pos": jnp.asarray(pos), "neg": jnp.asarray(neg)}
    got = run(losses.classification, **given, grade=grade, background=3, weight=weight)
    plain = run(losses.classification, **given, grade=grade, background=3)
    want = 0.0
    for i in range(4):
        p = np.exp(glb[i]) / np.exp(glb[i]).sum()
        want -= float(weight[i]) * np.log(p[int(grade[i])]) / 4
    assert got["cls_glb"] == pytest.approx(want, rel=1e-5)
    assert got["cls_neg"] == plain["cls_neg"]
    assert got["cls_pos"] != plain["cls_pos"]


# --- Eq. (4) ---


def test_eq4_is_within_a_sample():
    g, p, n = rng(6).standard_normal((3, 4, 8))
    got = run(
        losses.focus_consistency,
        glb=jnp.asarray(g, jnp.float32),
        pos=jnp.asarray(p, jnp.float32),
        neg=jnp.asarray(n, jnp.float32),
        tau=TAU,
    )
    total = 0.0
    for i in range(4):
        phi = [
            np.exp(cosine(a, b) / TAU)
            for a, b in ((g[i], p[i]), (g[i], n[i]), (p[i], n[i]))
        ]
        total -= np.log(phi[0] / sum(phi))
    # A cosine is rounded at 6e-8 and divided by tau: 1e-6 absolute.
    assert got == pytest.approx(total / 4, rel=TOLERANCE, abs=2e-6)


# --- Eq. (5) ---


def alignment_by_hand(h, y, known, normalize):
    """Eq. (5) for one biomarker, on the known rows alone (P8, P9)."""
    rows = [i for i in range(len(h)) if known[i]]
    total = 0.0
    for i in rows:
        denominator = sum(np.exp(cosine(h[i], h[k]) / TAU) for k in rows if k != i)
        positives = [j for j in rows if j != i and y[j] == y[i]]
        of_one = sum(
            np.log(np.exp(cosine(h[i], h[j]) / TAU) / denominator) for j in positives
        )
        total -= of_one / max(len(positives), 1) if normalize else of_one
    return total / len(rows)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.4])
def test_eq5_each_biomarker(normalize, unknown):
    r = rng(7)
    h = r.standard_normal((2, 9, 6))
    y = r.integers(-1, 2, (9, 2))
    known = r.random((9, 2)) >= unknown
    got = run(
        losses.alignment,
        projections=jnp.asarray(h, jnp.float32),
        status=jnp.asarray(y, jnp.int32),
        known=jnp.asarray(known),
        tau=TAU,
        normalize_positives=normalize,
    )
    for n in range(2):
        want = alignment_by_hand(h[n], y[:, n], known[:, n], normalize)
        assert got[n] == pytest.approx(want, rel=1e-5)


def alignment(h, y, known):
    return losses.alignment(
        projections=h,
        status=y,
        known=known,
        tau=TAU,
        normalize_positives=False,
    ).sum()


def test_eq5_an_unknown_row_is_nowhere():
    r = rng(8)
    h = jnp.asarray(r.standard_normal((1, 6, 4)), jnp.float32)
    y = jnp.asarray(r.integers(0, 2, (6, 1)), jnp.int32)
    known = jnp.asarray([[True], [True], [False], [True], [True], [True]])
    graded = jax.jit(jax.value_and_grad(alignment))
    value, gradient = jax.device_get(graded(h, y, known))
    assert not gradient[0, 2].any()
    changed = np.array(h)
    changed[0, 2] += 3
    assert graded(changed, y, known)[0] == value


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("no anchor has a positive", [0, 1, 2, 3, 4, 5]),
        ("all the same", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_eq5_is_finite_at_the_edges(case, rows):
    h = jnp.asarray(rng(9).standard_normal((1, 6, 4)), jnp.float32)
    y = jnp.asarray(rows, jnp.int32)[:, None]
    known = jnp.ones((6, 1), bool)
    value, gradient = run(jax.value_and_grad(alignment), h, y, known)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    if case.startswith("no"):
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_eq5_is_finite_with_few_known_rows(count):
    h = jnp.asarray(rng(10).standard_normal((1, 4, 4)), jnp.float32)
    y = jnp.zeros((4, 1), jnp.int32)
    known = (jnp.arange(4) < count)[:, None]
    value, gradient = run(jax.value_and_grad(alignment), h, y, known)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_zero_feature_has_cosine_zero_and_gradient_zero():
    g = jnp.asarray(rng(11).standard_normal((2, 4)), jnp.float32)
    zero = np.array(g)
    zero[0] = 0

    def loss(p):
        return losses.focus_consistency(glb=g, pos=p, neg=-g, tau=TAU)

    value, gradient = run(jax.value_and_grad(loss), zero)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not run(losses.unit, zero)[0].any()


# --- Eq. (6) ---


def test_eq6_weighs_the_terms():
    one = [jnp.asarray(v) for v in (2.0, 3.0, 5.0)]
    got = run(
        losses.total, cls=one[0], frl=one[1], mca=one[2], lambda_frl=0.2, lambda_mca=0.3
    )
    assert got == pytest.approx(2 + 0.2 * 3 + 0.3 * 5)


def test_each_equation_is_claimed_once_and_under_paper():
    package = Path(losses.__file__).parents[1]
    claims: dict[str, list[Path]] = {}
    for path in package.rglob("*.py"):
        for number in re.findall(r'"""Eq\. \((\d)\)[.:,]', path.read_text()):
            claims.setdefault(number, []).append(path)
    assert sorted(claims) == list("123456")
    for number, paths in claims.items():
        # Module docstrings name what the file holds; functions claim it.
        claimed = [p for p in paths if p.parent.name == "paper"]
        assert claimed == paths, number
