"""CRD, DC and HKD against plain NumPy loops in float64, to 1e-5 of the loss.

Gradients agree with central differences of the loops to 1e-3 of the largest entry. Each
misreading below is shown to differ by more than 1e-3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import crd, dc, hkd, memory, terms
from tests.support.compiled import run

TAU = 0.07


def unit(x):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def side_loop(x_pos, x_neg, n):
    m = x_neg.shape[1] / n
    c = m + 1e-7
    losses = []
    for pos, neg in zip(x_pos, x_neg, strict=True):
        loss = -np.mean([np.log(x / (x + c)) for x in pos])
        loss -= sum(np.log(m / (x + c)) for x in neg)
        losses.append(loss)
    return np.array(losses)


def contrast_loop(e_s, e_t, banks, pos, neg, z=None):
    """Losses of each row and Z; the banks of the other network are looked up."""
    n = len(banks["student"])
    total, used = 0, []
    for side, (anchor, bank) in enumerate(((e_s, "teacher"), (e_t, "student"))):
        idx = np.concatenate([pos, neg], axis=1)
        out = np.array(
            [
                [np.exp(banks[bank][i] @ a / TAU) for i in row]
                for a, row in zip(anchor, idx, strict=True)
            ]
        )
        z_side = out.mean() * n if z is None else z[side]
        x = out / z_side
        used.append(z_side)
        total = total + side_loop(x[:, : pos.shape[1]], x[:, pos.shape[1] :], n)
    return total, np.array(used)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    n, width, batch = 20, 4, 9
    arrays = {
        "student": unit(rng.normal(size=(n, width))),
        "teacher": unit(rng.normal(size=(n, width))),
        "e_s": unit(rng.normal(size=(batch, width))),
        "e_t": unit(rng.normal(size=(batch, width))),
    }
    arrays = {k: v.astype(np.float32).astype(np.float64) for k, v in arrays.items()}
    row = rng.permutation(n)[:batch]
    idx = np.concatenate([row[:, None], rng.integers(0, n, (batch, 7))], axis=1)
    banks = {
        name: jnp.asarray(arrays[name], jnp.float32) for name in ("student", "teacher")
    }
    banks["Z"] = jnp.zeros(2)
    ours = {k: jnp.asarray(arrays[k], jnp.float32) for k in ("e_s", "e_t")}
    return arrays, banks, ours, row, idx


def test_one_side_has_the_published_value():
    x = np.full((3, 4), 0.1, np.float32)
    loss = run(crd.contrast, positive=x[:, :1], negative=x[:, 1:], rows=10)
    np.testing.assert_allclose(loss, 2.249341578475108, rtol=1e-5)
    nothing = run(
        crd.contrast, positive=x[:, :1], negative=np.zeros_like(x[:, 1:]), rows=10
    )
    np.testing.assert_allclose(nothing, -np.log(0.1 / 0.4), rtol=1e-5)


def test_two_banks_have_the_published_values():
    r, c = np.mgrid[:6, :3]
    banks = {
        "student": jnp.asarray(unit(np.sin(1 + 3 * r + c)), jnp.float32),
        "teacher": jnp.asarray(unit(np.cos(3 * r + c)), jnp.float32),
        "Z": jnp.zeros(2),
    }
    e_s = jnp.asarray(unit(np.array([[1, 2, 3], [0, 1, -1.0]])), jnp.float32)
    e_t = jnp.asarray(unit(np.array([[1, 0, 1], [2, 1, 0.0]])), jnp.float32)
    idx = np.array([[0, 1, 2], [3, 4, 5]])
    loss, z = crd_of(banks, {"e_s": e_s, "e_t": e_t}, idx)
    np.testing.assert_allclose(z, [1078.5525, 19227.371], rtol=1e-6)
    mean = np.mean(loss)
    np.testing.assert_allclose(mean, 8.939077377 + 11.073928833, rtol=1e-6)
    new = [
        run(memory.moved, bank=banks[name], row=idx[:, 0], anchor=e, momentum=0.5)
        for name, e in (("student", e_s), ("teacher", e_t))
    ]
    np.testing.assert_allclose(new[0][0], [0.516906, 0.6933905, 0.5020138], rtol=1e-5)
    np.testing.assert_allclose(new[1][3], [0.5678692, -0.8230196, 0.0127744], rtol=2e-5)


@jax.jit
def crd_of(banks, ours, idx):
    return crd.contrastive(
        student=ours["e_s"], teacher=ours["e_t"], banks=banks, idx=idx, tau=TAU
    )


@functools.partial(jax.jit, static_argnames="swapped")
def difference_of(banks, ours, idx, *, swapped):
    return dc.relation_difference(
        student=ours["e_s"],
        teacher=ours["e_t"],
        banks=banks,
        idx=idx,
        swapped=swapped,
    )


def test_crd_is_the_loop_and_keeps_its_z(case):
    arrays, banks, ours, _, idx = case
    loss, z = crd_of(banks, ours, idx)
    wanted, z_loop = contrast_loop(
        arrays["e_s"], arrays["e_t"], arrays, idx[:, :1], idx[:, 1:]
    )
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(z, z_loop, rtol=1e-5)
    z = np.asarray(z)
    other = {**banks, "Z": jnp.asarray(3 * z)}
    again, kept = crd_of(other, ours, idx)
    wanted, _ = contrast_loop(
        arrays["e_s"], arrays["e_t"], arrays, idx[:, :1], idx[:, 1:], z=3 * z_loop
    )
    np.testing.assert_allclose(again, wanted, rtol=1e-5)
    np.testing.assert_allclose(kept, 3 * z)


@pytest.mark.parametrize(
    "wrong", ["own bank", "first Z with gradient", "mean of negatives"]
)
def test_misreadings_of_crd_differ(case, wrong):
    arrays, banks, ours, _, idx = case
    if wrong == "own bank":
        crossed = {"student": arrays["teacher"], "teacher": arrays["student"]}
        value, _ = contrast_loop(
            arrays["e_s"], arrays["e_t"], crossed, idx[:, :1], idx[:, 1:]
        )
    elif wrong == "mean of negatives":
        value, z = contrast_loop(
            arrays["e_s"], arrays["e_t"], arrays, idx[:, :1], idx[:, 1:]
        )
        k = idx.shape[1] - 1
        hits, _ = contrast_loop(
            arrays["e_s"], arrays["e_t"], arrays, idx[:, :1], idx[:, 1:2], z=z
        )
        value = hits / k
    else:

        def ours_of(e, banks):
            moved = {**ours, "e_s": e}
            return crd_of(banks, moved, idx)[0].mean()

        _, z = crd_of(banks, ours, idx)
        graded = jax.jit(jax.grad(ours_of))
        first = graded(ours["e_s"], banks)
        fixed = graded(ours["e_s"], {**banks, "Z": z})
        np.testing.assert_allclose(first, fixed, rtol=1e-4, atol=1e-6)

        def with_gradient(e):
            out = jnp.exp(jnp.einsum("be,bpe->bp", e, banks["teacher"][idx]) / TAU)
            x = out / (out.mean() * 20)
            return crd.contrast(positive=x[:, :1], negative=x[:, 1:], rows=20).mean()

        different = jax.jit(jax.grad(with_gradient))(ours["e_s"])
        assert np.abs(different - first).max() > 1e-3 * np.abs(first).max()
        return
    loss, _ = crd_of(banks, ours, idx)
    assert np.abs(loss - value).max() > 1e-3 * np.abs(loss).max()


def test_crd_has_the_gradient_of_the_loop(case):
    arrays, banks, ours, _, idx = case
    _, z = contrast_loop(arrays["e_s"], arrays["e_t"], arrays, idx[:, :1], idx[:, 1:])

    def loop(e):
        return contrast_loop(e, arrays["e_t"], arrays, idx[:, :1], idx[:, 1:], z)[
            0
        ].mean()

    def mean(e):
        return crd_of(banks, {**ours, "e_s": e}, idx)[0].mean()

    gradient = np.asarray(jax.jit(jax.grad(mean))(ours["e_s"]))
    numeric = np.zeros_like(arrays["e_s"])
    for index in [(0, 0), (3, 2), (8, 3)]:
        step = np.zeros_like(numeric)
        step[index] = 1e-5
        numeric[index] = (
            loop(arrays["e_s"] + step) - loop(arrays["e_s"] - step)
        ) / 2e-5
        np.testing.assert_allclose(
            gradient[index], numeric[index], atol=1e-3 * np.abs(gradient).max()
        )


def test_relation_differences_and_their_swap(case):
    arrays, banks, ours, _, idx = case
    # Rows before the first update are not of norm 1.
    banks = {**banks, "student": 0.3 * banks["student"]}
    difference = np.asarray(difference_of(banks, ours, idx, swapped=False))
    for b, row in enumerate(idx):
        for p, i in enumerate(row):
            rho_t = arrays["teacher"][i] @ arrays["e_t"][b]
            rho_s = arrays["student"][i] @ arrays["e_s"][b]
            np.testing.assert_allclose(difference[b, p], rho_t - rho_s, atol=1e-6)
    swapped = difference_of(banks, ours, idx, swapped=True)
    np.testing.assert_allclose(swapped, -difference)


def test_positives_rank_by_falling_difference_and_start_with_the_own_row():
    difference = jnp.array([[0.1, 0.5, -0.2, 0.9, 0.3]])
    chosen = dc.positions_of_positives(
        difference=difference, ranks=jnp.array([4, 0, 2])
    )
    # Falling order is 3, 1, 4, 0, 2; rank 4 is overwritten by the own row.
    assert chosen.tolist() == [[0, 3, 4]]


def test_repeated_candidates_rank_last_and_ranks_wrap():
    difference = jnp.array([[0.1, 0.5, 0.9, 0.1, 0.5]])
    fresh = jnp.array([[True, True, True, False, False]])
    chosen = dc.positions_of_positives(
        difference=difference, ranks=jnp.array([0, 1, 2, 3, 4]), fresh=fresh
    )
    assert chosen.tolist() == [[0, 1, 0, 2, 1]]


def dc_term(**options):
    return dc.DC(
        weight=1.0,
        width=4,
        negatives=8,
        kept_negatives=5,
        positives=6,
        kept_positives=3,
        mode="hard",
        **options,
    )


def test_dc_is_the_loop_over_its_choice(case):
    arrays, banks, ours, row, _ = case
    grade = jnp.asarray(np.arange(20) % 3)
    term = dc_term()
    fold = terms.Fold(grade, jnp.asarray(row))
    sample = jax.jit(term.sample)(jax.random.key(0), fold)
    idx, grade = np.asarray(sample["idx"]), np.asarray(grade)
    assert (idx[:, 0] == row).all()
    same = grade[idx] == grade[row][:, None]
    assert same[:, :6].all()
    assert not same[:, 6:].any()
    chosen = (banks, ours["e_s"], ours["e_t"], sample)
    positive, negative = jax.device_get(jax.jit(term.choose)(*chosen))
    pos, neg = (np.take_along_axis(idx, at, 1) for at in (positive, negative))
    discrepancy = functools.partial(dc.discrepancy, tau=TAU)
    loss, z = jax.jit(discrepancy)(
        student=ours["e_s"],
        teacher=ours["e_t"],
        banks=banks,
        positive=pos,
        negative=neg,
    )
    wanted, z_loop = contrast_loop(arrays["e_s"], arrays["e_t"], arrays, pos, neg)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(z, z_loop, rtol=1e-5)
    # Negatives of smallest difference.
    difference = np.asarray(difference_of(banks, ours, idx, swapped=False))
    for b in range(len(row)):
        smallest = set((6 + np.argsort(difference[b, 6:])[:5]).tolist())
        assert set(negative[b].tolist()) == smallest
    other = jax.jit(dc_term(swapped=True).choose)(*chosen)
    assert not np.array_equal(other[1], negative)


def test_mid_ranks_are_distinct_and_of_30_to_99():
    term = dc.DC(weight=1.0, width=4)
    grade = jnp.asarray(np.arange(12) % 3)
    fold = terms.Fold(grade, jnp.array([0, 5]))
    sample = run(term.sample, jax.random.key(0), fold)
    ranks = sample["ranks"].tolist()
    assert len(set(ranks)) == 20
    assert min(ranks) >= 30
    assert max(ranks) <= 99


def test_a_small_class_gives_finite_losses_and_gradients():
    term = dc.DC(weight=1.0, width=4, negatives=10, kept_negatives=5)
    grade = jnp.array([0, 1, 1, 1, 1, 1, 2, 2])  # one row of class 0
    row = jnp.array([0, 1, 6])
    params, state = term.init(jax.random.key(0), terms.Sizes(5, 3, 8))
    sample = jax.jit(term.sample)(jax.random.key(1), terms.Fold(grade, row))
    rng = np.random.default_rng(0)
    f_s, f_t = (jnp.asarray(rng.normal(size=(3, w)), jnp.float32) for w in (5, 3))

    def loss(f):
        value, new = term(
            params,
            state,
            terms.TermInputs(
                student=terms.Side(f, jnp.zeros((3, 3))),
                teacher=terms.Side(f_t, jnp.zeros((3, 3))),
                sample=sample,
                row=row,
                epoch=jnp.asarray(0),
            ),
        )
        return value.mean(), new

    (value, new), gradient = run(jax.value_and_grad(loss, has_aux=True), f_s)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.isfinite(new["student"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "soft"}, "'mid' or 'hard'"),
        ({"positives": 50}, "of 100 or more"),
        ({"kept_negatives": 900}, "keeps 900 negatives of 700"),
    ],
)
def test_dc_refuses_numbers_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        dc.DC(weight=1.0, **options).init(jax.random.key(0), terms.Sizes(4, 4, 9))


def nce_loop(anchor, positive, negative):
    logits = [positive @ anchor / TAU] + [n @ anchor / TAU for n in negative]
    return np.log(np.exp(logits).sum()) - logits[0]


def hkd_inputs(arrays, banks, ours, row, idx):
    return {
        "student": ours["e_s"],
        "teacher": ours["e_t"],
        "banks": banks,
        "row": jnp.asarray(row),
        "idx": jnp.asarray(idx[:, 1:]),
        "tau": TAU,
    }


def individual_loop(arrays, row, idx, own):
    total = np.zeros(len(row))
    for anchor, mine, other in (
        (arrays["e_s"], "student", "teacher"),
        (arrays["e_t"], "teacher", "student"),
    ):
        for b in range(len(row)):
            negative = arrays[mine if own else other][idx[b, 1:]]
            total[b] += nce_loop(anchor[b], arrays[other][row[b]], negative)
    return total


def test_hkd_takes_negatives_from_the_own_bank(case):
    arrays, banks, ours, row, idx = case
    value = run(hkd.individual, **hkd_inputs(*case))
    np.testing.assert_allclose(
        value, individual_loop(arrays, row, idx, True), rtol=1e-5
    )
    wrong = individual_loop(arrays, row, idx, False)
    assert np.abs(value - wrong).max() > 1e-2


def test_equal_similarities_give_the_logarithm_of_the_candidates():
    anchor = jnp.array([[1.0, 0.0]])
    same = jnp.array([[0.0, 1.0]] * 6)
    idx = jnp.arange(6)[None]
    loss = run(
        hkd.info_nce, anchor=anchor, positive=same[:1], bank=same, idx=idx, tau=TAU
    )
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_neighbors_are_the_eight_nearest_with_the_own_row():
    logits = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    adjacent = run(hkd.neighbors, logits)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    u = unit(p)
    for i in range(12):
        distance = [-1.0 if j == i else 1 - u[i] @ u[j] for j in range(12)]
        assert set(np.flatnonzero(adjacent[i])) == set(np.argsort(distance)[:8])
    assert (adjacent.sum(axis=1) == 8).all()
    by_logits = np.argsort(-unit(logits) @ unit(logits).T, axis=1)[:, :8]
    assert any(
        set(np.flatnonzero(a)) != set(b)
        for a, b in zip(adjacent, by_logits, strict=True)
    )


def test_graph_terms_are_the_loop(case):
    arrays, banks, ours, row, idx = case
    rng = np.random.default_rng(2)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    logits = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
    adjacent = run(hkd.neighbors, logits)
    g = {
        name: run(hkd.graph_embedding, params, ours[e], adjacent)
        for name, e in (("student", "e_s"), ("teacher", "e_t"))
    }
    for b in range(9):
        near = arrays["e_s"][np.flatnonzero(adjacent[b])].sum(axis=0) / 8
        v = np.concatenate([arrays["e_s"][b], near]) @ params["kernel"] + params["bias"]
        np.testing.assert_allclose(g["student"][b], unit(np.asarray(v)), atol=1e-5)
    common = hkd_inputs(*case) | {k: jnp.asarray(v) for k, v in g.items()}
    value = run(hkd.graph, **common)
    wanted = np.zeros(9)
    for own, other in (("student", "teacher"), ("teacher", "student")):
        for b in range(9):
            positive = unit(0.75 * arrays[other][row[b]] + 0.25 * g[other][b])
            wanted[b] += nce_loop(g[own][b], positive, arrays[own][idx[b, 1:]])
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_hkd_refuses_a_batch_below_eight_and_says_the_number():
    term = hkd.HKD(weight=1.0, width=4, negatives=5)
    params, state = term.init(jax.random.key(0), terms.Sizes(5, 3, 20))
    inputs = terms.TermInputs(
        student=terms.Side(jnp.ones((7, 5)), jnp.ones((7, 3))),
        teacher=terms.Side(jnp.ones((7, 3)), jnp.ones((7, 3))),
        sample=jnp.zeros((7, 5), int),
        row=jnp.arange(7),
        epoch=jnp.asarray(0),
    )
    with pytest.raises(ValueError, match="batch of 7 rows, expected 8 or more"):
        term(params, state, inputs)


def test_negatives_of_crd_are_of_any_class_and_of_hkd_of_other_classes():
    grade = jnp.asarray(np.arange(30) % 3)
    fold = terms.Fold(grade, jnp.array([0, 1]))
    grade = np.asarray(grade)
    idx = run(crd.CRD(weight=1.0, negatives=200).sample, jax.random.key(0), fold)
    assert (idx[:, 0] == np.asarray(fold.row)).all()
    assert {int(g) for g in grade[idx[0, 1:]]} == {0, 1, 2}
    assert 0 not in idx[0, 1:]
    idx = run(hkd.HKD(weight=1.0, negatives=200).sample, jax.random.key(0), fold)
    assert {int(g) for g in grade[idx[0]]} == {1, 2}
    assert {int(g) for g in grade[idx[1]]} == {0, 2}


def test_banks_need_labels():
    with pytest.raises(ValueError, match="training fold has None rows"):
        crd.CRD(weight=1.0).init(jax.random.key(0), terms.Sizes(4, 4, None))
    with pytest.raises(ValueError, match="labels of the training fold are missing"):
        crd.CRD(weight=1.0).sample(jax.random.key(0), None)
