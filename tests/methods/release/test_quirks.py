"""Quirks of the authors' code: each test fails when somebody mends its item.

Numbers are those of docs/parity.md. A test changes what the quirk says does not matter
and sees no difference, or changes what it says matters and sees one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from fof_jax.methods.release import cam, labels, losses, model
from fof_jax.models import vit
from fof_jax.parity import release_optimizer
from fof_jax.types import Batch, Variables
from tests.support import initial, methods

TAU = 0.07


def make(**changes):
    size = vit.Size(width=16, depth=3, heads=2, mlp=32)
    encoder = vit.ViT(
        size=size,
        patch=4,
        image_size=(12, 16),
        layer_norm_eps=1e-12,
        implementation="naive",
        remat="none",
    )
    fields = {"data_label_transform": "raw", "world_size_emulated": 1} | changes
    return methods.make("release", encoder, **{"biomarkers": 2, "floats": 4} | fields)


def draw(rows=4, seed=0):
    rng = np.random.default_rng(seed)
    image, second = rng.normal(size=(2, rows, 12, 16, 3)).astype(np.float32)
    genes = jnp.asarray(rng.integers(-1, 2, size=(rows, 2)), jnp.int32)
    return Batch(
        image=jnp.asarray(image),
        second_view=jnp.asarray(second),
        grade=jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
        biomarkers=genes,
        known=jnp.ones_like(genes, bool),
        floats=jnp.asarray(rng.normal(size=(rows, 4)), jnp.float32),
        index=jnp.arange(rows),
        epoch=jnp.zeros(rows, jnp.int32),
        valid=jnp.ones(rows, bool),
    )


@pytest.fixture(scope="module")
def method():
    return make()


@pytest.fixture(scope="module")
def batch():
    return draw()


@pytest.fixture(scope="module")
def variables(method, batch):
    drawn = initial.filled(method, batch, {})
    # A mask token of 0 would hide a confusion with "multiplied by 0".
    token = np.linspace(-1, 1, 16, dtype=np.float32)
    drawn.params["model"]["mask_token"] = token
    return drawn


@pytest.fixture(scope="module")
def views(method):
    return jax.jit(method.views)


@pytest.fixture(scope="module")
def seen(views, variables, batch):
    return views(variables, batch)


@pytest.fixture(scope="module")
def whole_step(method, variables, batch):
    """What the loss returns beside its value, and its gradient."""

    def run(params):
        own = variables.replace(params=params)
        return method.loss(own, batch, methods.CTX)

    graded = jax.jit(jax.grad(run, has_aux=True))
    gradient, aux = jax.device_get(graded(variables.params))
    return aux, gradient


@functools.partial(jax.jit, static_argnums=0)
def terms_of(method, variables, seen, batch):
    labels = (batch.grade, batch.biomarkers, batch.floats)
    return method.terms(variables, seen.glb, seen.pos, seen.neg, *labels)


def changed(tree, path, change):
    """A copy of a tree of dicts with one leaf replaced."""
    name, *rest = path
    return tree | {
        name: changed(tree[name], rest, change) if rest else change(tree[name])
    }


def with_params(variables, path, change):
    return variables.replace(params=changed(variables.params, path, change))


def applied(network, method):
    """A method of the network, in one program."""
    return jax.jit(functools.partial(network.apply, method=method))


def unit(rng, *shape):
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def as32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


# ---- A. The focus map ----------------------------------------------------------------


def weighted_case(seed=0, rows=3):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(rows, 12, 5))
    gradient = rng.normal(size=(rows, 12, 5)) + rng.normal(size=(rows, 1, 5))
    return as32(tokens, gradient)


def map_of(tokens, gradient, **options):
    # Traced at each call: a test replaces the solver.
    run = jax.jit(functools.partial(cam.map_of, grid=(3, 4), image_size=(12, 16)))
    return run(tokens=tokens, gradient=gradient, **options)


def test_map_is_a_principal_component():  # 1, 3
    tokens, gradient = weighted_case()
    found = map_of(tokens, gradient)
    alpha = np.asarray(gradient, np.float64).mean(axis=1)
    np.testing.assert_allclose(found.alpha, alpha, rtol=1e-5)  # mean, not sum
    for image in range(3):
        rows = alpha[image] * np.asarray(tokens[image], np.float64)
        rows -= rows.mean(axis=0)
        _, _, vt = np.linalg.svd(rows, full_matrices=True)
        ours, theirs = found.projection[image].ravel(), rows @ vt[0]
        theirs *= np.sign(theirs @ np.asarray(ours))
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max())


def test_component_speaks_for_the_class_whatever_the_solver(monkeypatch):  # 2
    tokens, gradient = weighted_case(seed=3, rows=8)
    evidence = np.einsum("bpd,bd->bp", tokens, np.asarray(gradient).mean(axis=1))
    eigh = jnp.linalg.eigh
    results = []
    for sign in (1, -1):
        monkeypatch.setattr(
            jnp.linalg, "eigh", lambda a, s=sign: (eigh(a)[0], s * eigh(a)[1])
        )
        found = map_of(tokens, gradient)
        assert (np.asarray(found.direction).sum(axis=1) >= 0).all()
        component = np.asarray(found.projection).reshape(8, -1)
        for c, e in zip(component, evidence, strict=True):
            assert np.corrcoef(c, e)[0, 1] > 0
        results.append(found.A)
    np.testing.assert_array_equal(*results)
    mirrored = map_of(tokens, gradient, reference=-found.direction)
    np.testing.assert_allclose(mirrored.projection, -found.projection)


def test_map_is_relative_to_its_own_maximum():  # 4
    tokens, gradient = weighted_case()
    found = map_of(tokens, gradient)
    larger = map_of(tokens, 1000 * np.asarray(gradient))
    np.testing.assert_allclose(found.A, larger.A, atol=1e-5)
    np.testing.assert_allclose(found.A.max(axis=(1, 2)), 1, atol=1e-6)
    # Twice: enlarging an inner peak by 4 leaves a maximum of 0.875^2.
    tokens = np.zeros((1, 12, 5), np.float32)
    tokens[0, 5] = 1
    found = map_of(tokens, np.ones_like(tokens))
    np.testing.assert_allclose(found.scaled.max(), 0.875**2, rtol=1e-5)
    np.testing.assert_allclose(found.A.max(), 1, rtol=1e-5)


def test_a_patch_at_theta_is_shown():  # 5
    A = np.full((1, 4, 8), 0.5, np.float32)
    A[:, :, 4:] -= 2**-20
    assert cam.hide_mask(jnp.asarray(A), patch=4, theta=0.5).tolist() == [
        [[False, True]]
    ]
    method = make()
    assert bool(method.patch_mask(jnp.full((1, 12, 16), 0.5)).all())


def test_resizing_and_pooling_smooths_the_grid():  # 6
    rng = np.random.default_rng(0)
    grid = rng.uniform(size=(5, 6))
    grid = (grid - grid.min()) / (grid.max() - grid.min())
    padded = np.pad(grid, 1, mode="edge")
    rows = 0.125 * padded[:-2] + 0.75 * padded[1:-1] + 0.125 * padded[2:]
    want = 0.125 * rows[:, :-2] + 0.75 * rows[:, 1:-1] + 0.125 * rows[:, 2:]
    enlarged = cam.scale(jnp.asarray(grid[None], jnp.float32), image_size=(20, 24))
    np.testing.assert_allclose(cam.pooled(enlarged, patch=4)[0], want, atol=1e-6)


def test_map_reads_the_last_block_but_one_and_the_global_head(  # 7
    views, variables, batch, seen
):
    def enlarged(block):
        factor = np.ones((3, 1, 1), np.float32)
        factor[block] = 1.5
        path = ("model", "encoder", "blocks", "mlp_out", "kernel")
        return views(with_params(variables, path, lambda a: a * factor), batch)

    np.testing.assert_array_equal(enlarged(-1).tokens, seen.tokens)
    assert np.abs(enlarged(-2).tokens - seen.tokens).max() > 1e-4
    for head, moves in (("local_classifier", False), ("global_classifier", True)):
        path = ("model", head, "kernel")
        other = views(with_params(variables, path, lambda a: a[::-1]), batch)
        difference = np.abs(other.activation.gradient - seen.activation.gradient)
        assert (difference.max() > 1e-6) == moves


def test_hidden_patches_become_the_mask_token(method, variables, batch, seen):  # 8
    network = {"params": variables.params["model"]}
    embedded = applied(method.network, "embed")(network, batch.image)
    masked = np.asarray(applied(method.network, "mask")(network, embedded, seen.hide))
    hide = np.asarray(seen.hide).reshape(4, 12)
    assert masked.shape == embedded.shape  # all tokens stay
    token = np.asarray(variables.params["model"]["mask_token"])
    np.testing.assert_array_equal(masked[hide], np.tile(token, (hide.sum(), 1)))
    np.testing.assert_array_equal(masked[~hide], np.asarray(embedded)[~hide])


def test_mask_token_learns(whole_step):  # 8
    found = whole_step[1]["model"]["mask_token"]
    assert float(np.abs(found).max()) > 1e-4


def test_positive_view_is_another_image(views, variables, batch, seen):  # 9
    other = views(variables, batch.replace(second_view=batch.second_view * 1.1))
    np.testing.assert_array_equal(other.glb.feature, seen.glb.feature)
    np.testing.assert_array_equal(other.neg.feature, seen.neg.feature)
    assert float(np.abs(other.pos.feature - seen.pos.feature).max()) > 1e-4


def test_a_map_of_zeros_hides_everything():  # 10
    tokens, gradient = weighted_case()
    found = map_of(tokens, np.zeros_like(gradient))
    assert float(np.abs(found.A).max()) == 0
    assert bool(cam.hide_mask(found.A, patch=4, theta=0.5).all())


# ---- B. Classification ---------------------------------------------------------------


def test_two_heads(method, variables, batch, seen):  # 14
    assert seen.glb.global_logits.shape == (4, 3)
    assert seen.neg.local_logits.shape == (4, 13)

    def of(name):
        view = getattr(seen, name.split("_")[0].replace("global", "glb"))
        head = "global_logits" if name == "global_cls" else "local_logits"
        logits = np.asarray(getattr(view, head), np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        target = np.full(4, 3) if name == "neg_cls" else np.asarray(batch.grade)
        return -log_p[np.arange(4), target].mean()

    found = terms_of(method, variables, seen, batch)[1]
    apply = jax.jit(method.apply)
    for name in ("global_cls", "pos_cls", "neg_cls"):
        np.testing.assert_allclose(found[name], of(name), rtol=1e-5)
    path = ("model", "local_classifier", "kernel")
    other = with_params(variables, path, lambda a: a * 2)
    logits, same = (apply(v, batch).logits for v in (variables, other))
    np.testing.assert_array_equal(logits, same)


def test_token_0_is_left_out_of_the_feature(variables, batch):  # 15
    # With the map taken after the last block, the tail is norm, mean and heads.
    network = make(cam_block=-1).network
    params = {"params": variables.params["model"]}
    tokens = np.asarray(applied(network, "embed")(params, batch.image))
    tail = applied(network, "tail")
    feature = np.asarray(tail(params, tokens).feature)
    for token, moves in ((0, False), (1, True), (11, True)):
        other = tokens.copy()
        other[:, token] *= -3
        assert np.any(tail(params, other).feature != feature) == moves


# ---- C. The region loss --------------------------------------------------------------


def region_of(g, p, n):
    views = dict(zip(("glb", "pos", "neg"), as32(g, p, n), strict=True))
    return float(region(**views))


region = jax.jit(functools.partial(losses.region, tau=TAU))


def aligned(cosine, partner):
    """Three orthonormal views of 3 samples, one pair turned to a given cosine."""
    basis = np.eye(12)
    g, p, n = basis[0:3].copy(), basis[3:6].copy(), basis[6:9].copy()
    # The second direction, basis[9], stands in no other view.
    turned = cosine * g[0] + np.sqrt(1 - cosine**2) * basis[9]
    {"p": p, "n": n}[partner][0] = turned
    return g, p, n


def test_region_loss_pulls_global_and_negative_together():  # 16
    values = [region_of(*aligned(c, "n")) for c in (-0.3, -0.15, 0.0, 0.15)]
    assert np.all(np.diff(values) < -0.05)


def test_region_loss_does_not_see_the_true_pair():  # 17
    values = [region_of(*aligned(c, "p")) for c in (-0.3, 0.0, 0.3, 0.9)]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    mask = losses.region_rows(3)[0]
    assert not mask[np.arange(3), 3 + np.arange(3)].any()


def test_region_rows_mix_anchors():  # 18
    mask, index = losses.region_rows(2)
    assert mask.sum() == 4 * 2**2
    assert mask.sum(axis=1).tolist() == [3, 3, 3, 3, 2, 2]
    names = ["g0", "g1", "p0", "p1", "n0", "n1"]
    row = [names[i // 6] + names[i % 6] for i in index[1]]
    assert row == ["g1p0", "g1n1", "p0g1", "p0p1"]


def plain_region(g, p, n):
    """Section 1 (v) of the description, in loops."""
    z = np.concatenate([g, p, n])
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-8)
    sim, count = z @ z.T / TAU, len(g)
    mask, _ = losses.region_rows(count)
    entries = [
        sim[i, j] for i in range(3 * count) for j in range(3 * count) if mask[i, j]
    ]
    total = 0.0
    for r in range(2 * count):
        positive = sim[r % count, 2 * count + r % count]
        others = entries[r * 2 * count : (r + 1) * 2 * count]
        total += np.log(np.exp([positive, *others]).sum()) - positive
    return total / (2 * count)


def test_region_positive_is_the_same_for_both_halves():  # 19
    g, p, n = (unit(np.random.default_rng(s), 4, 12) for s in range(3))
    np.testing.assert_allclose(region_of(g, p, n), plain_region(g, p, n), rtol=1e-5)


def test_region_loss_compares_samples():  # 20
    g, p, n = aligned(0.0, "p")
    before = region_of(g, p, n)
    g[1] = 0.8 * g[0] + 0.6 * np.eye(12)[10]  # two samples' global views alike
    assert region_of(g, p, n) > before + 0.1


def test_the_global_view_is_projected_by_the_average(method, variables, seen):  # 21, 26
    project = jax.jit(method.project)
    features = seen.glb.feature, seen.pos.feature, seen.neg.feature
    before = project(variables, *features)
    average = jax.tree.map(lambda a: 2 * a, variables.state)
    trained = changed(
        variables.params,
        ["local_projectors"],
        lambda heads: jax.tree.map(lambda a: 2 * a, heads),
    )
    for other, moves in (
        (variables.replace(state=average), (True, False, False)),
        (variables.replace(params=trained), (False, True, True)),
    ):
        after = project(other, *features)
        for a, b, moved in zip(before, after, moves, strict=True):
            for one, other in ((a.region, b.region), (a.gene, b.gene)):
                assert np.any(np.asarray(one) != np.asarray(other)) == moved
    assert np.min(before[0].gene) == 0  # Q26: ReLU after a single layer
    assert np.min(before[0].region) < 0


def test_gradient_flows_through_the_frozen_average(method, variables, seen):  # 21
    def loss(feature, state):
        other = variables.replace(state=state)
        g, _, _ = method.project(other, feature, seen.pos.feature, seen.neg.feature)
        return (g.region**2).sum() + g.gene.sum()

    graded = jax.jit(jax.grad(loss, (0, 1)))
    grads = jax.device_get(graded(seen.glb.feature, variables.state))
    assert float(np.abs(grads[0]).max()) > 1e-3
    assert all(float(np.abs(a).max()) == 0 for a in jax.tree.leaves(grads[1]))


def test_average_is_a_draw_of_its_own_and_overwritten_at_step_0(  # 22
    method, variables, batch
):
    @jax.jit
    def projectors(key):
        started = method.init(key, batch, {})
        return started.params["local_projectors"], started.state["global_projectors"]

    local, average = projectors(jax.random.key(1))
    params = variables.params | {"local_projectors": local}
    variables = variables.replace(params=params, state={"global_projectors": average})
    for a, b in zip(jax.tree.leaves(local), jax.tree.leaves(average), strict=True):
        assert float(np.abs(a - b).max()) > 0.1
    step = jax.jit(method.update_state)
    for number, alpha in ((0, 0.0), (1, 0.5), (3, 0.75), (10**6, 0.999)):
        after = step(variables, jnp.asarray(number))["global_projectors"]
        want = jax.tree.map(lambda a, b, k=alpha: k * a + (1 - k) * b, average, local)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-7), after, want
        )
    after = step(variables, jnp.asarray(0))["global_projectors"]
    jax.tree.map(np.testing.assert_array_equal, after, local)


# ---- D. Discrete genes ---------------------------------------------------------------


def supcon(features, status):
    run = jax.jit(functools.partial(losses.supervised_contrastive, tau=TAU))
    return float(run(*as32(features), jnp.asarray(status)))


def test_positives_are_averaged():  # 23
    same = np.ones((6, 4))  # every log softmax is -log 5, so sums would count positives
    for status in ([1] * 6, [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]):
        np.testing.assert_allclose(supcon(same, status), np.log(5), rtol=1e-5)


def test_rows_without_positives_count_in_the_mean():  # 24
    same = np.ones((6, 4))
    np.testing.assert_allclose(
        supcon(same, [0, 0, 1, 2, 3, 4]), np.log(5) * 2 / 6, rtol=1e-5
    )


def test_three_views_in_one_matrix_and_the_negative_one_is_0():  # 24
    rng = np.random.default_rng(0)
    g, p, n = as32(*rng.normal(size=(3, 1, 2, 5)))
    status = jnp.asarray([[1], [0]])
    average = jax.jit(functools.partial(losses.discrete_genes, tau=TAU))
    found = average(glb=g, pos=p, neg=n, labels=status)
    rows = np.concatenate([g[0], p[0], n[0]])
    np.testing.assert_allclose(found, supcon(rows, [1, 0, 1, 0, 0, 0]), rtol=1e-6)


def test_genes_are_averaged():  # 25
    rng = np.random.default_rng(0)
    views = dict(
        zip(("glb", "pos", "neg"), as32(*rng.normal(size=(3, 2, 4, 5))), strict=True)
    )
    status = jnp.asarray(rng.integers(0, 2, (4, 2)))
    average = jax.jit(functools.partial(losses.discrete_genes, tau=TAU))
    once = average(**views, labels=status)
    twice = {v: jnp.concatenate([a, a]) for v, a in views.items()}
    again = average(**twice, labels=jnp.concatenate([status, status], axis=1))
    np.testing.assert_allclose(once, again, rtol=1e-6)


def test_truncated_z_scores_turn_labels_round():  # 27
    rng = np.random.default_rng(0)
    common = (np.arange(40) % 4 > 0).astype(int)  # 75% altered
    rare = 1 - common
    copies = rng.integers(-2, 3, 40)
    columns = np.stack([common, rare, copies, np.ones(40, int)], axis=1)
    means, stds = labels.fit(columns)
    found = labels.transform(
        jnp.asarray(columns), name="zscore_trunc", means=means, stds=stds
    )
    want = np.trunc(StandardScaler().fit_transform(columns)).astype(int)
    np.testing.assert_array_equal(found, want)
    assert set(zip(common.tolist(), found[:, 0].tolist(), strict=True)) == {
        (0, -1),
        (1, 0),  # altered shares the label of the negative view
    }
    assert set(zip(rare.tolist(), found[:, 1].tolist(), strict=True)) == {
        (0, 0),
        (1, 1),
    }
    assert len(set(found[:, 2].tolist())) < 5  # copy numbers merge
    np.testing.assert_array_equal(
        labels.transform(jnp.asarray(columns), name="raw"), columns
    )


def test_label_figures_come_from_the_cohort_where_none_are_given():
    table = np.array([[0, 1], [1, 1], [1, -1], [1, 2]])
    given = {"data_label_transform": "zscore_trunc", "biomarkers": 2}
    method = make(**given, values=table)
    assert method.label_means == pytest.approx((0.75, 0.75))
    deviations = (np.sqrt(0.1875), np.sqrt(1.1875))
    assert method.label_stds == pytest.approx(deviations)
    # A trained model is rebuilt without its data, and its loss is not computed.
    assert make(**given).label_transform == "raw"


def test_label_transform_enters_the_loss(variables, batch, seen):  # 27
    raw = terms_of(make(), variables, seen, batch)[1]
    method = make(
        data_label_transform="zscore_trunc",
        data_label_means=(0.9, 0.9),
        data_label_stds=(1.0, 1.0),
    )
    shifted = terms_of(method, variables, seen, batch)[1]
    assert float(np.abs(raw["dis_gene"] - shifted["dis_gene"])) > 1e-3
    np.testing.assert_array_equal(raw["region"], shifted["region"])


# ---- E. Float genes, weights, processes ----------------------------------------------


def names_of(rows, batch, ranks):
    """Which rows stand where after `rank_rows`, p_i as i and g_i as 100 + i."""
    pos = np.arange(rows, dtype=np.float32)[:, None]
    glb = pos + 100
    rank = jax.jit(functools.partial(losses.rank_rows, ranks=ranks))
    order = np.asarray(rank(pos, glb))[:, 0].astype(int).tolist()
    names = [f"p{i}" if i < 100 else f"g{i - 100}" for i in order]
    return ["+".join(names[i : i + 2]) for i in range(0, 2 * rows, 2)]


@pytest.mark.parametrize(
    ("rows", "ranks", "want"),
    [
        (4, 1, "p0+p1 p2+p3 g0+g1 g2+g3"),
        (4, 2, "p0+p1 g0+g1 p2+p3 g2+g3"),
        (4, 4, "p0+g0 p1+g1 p2+g2 p3+g3"),
        (3, 1, "p0+p1 p2+g0 g1+g2"),
        (2, 1, "p0+p1 g0+g1"),
    ],
)
def test_float_guidance_glues_rows_by_process(rows, ranks, want):  # 30
    assert " ".join(names_of(rows, rows, ranks)) == want


def test_float_guidance_reads_2n_rows_as_n():  # 30
    rng = np.random.default_rng(0)
    features, genes = rng.normal(size=(8, 6)), rng.normal(size=(8, 4))

    def kernel(a):
        k = a.reshape(4, -1) @ a.reshape(4, -1).T
        return k / (np.linalg.norm(k, axis=1, keepdims=True) + 1e-6)

    want = np.mean((kernel(features) - kernel(genes)) ** 2) / 4
    found = losses.float_genes(*as32(features, genes), batch=4)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_batch_of_two_carries_no_gene_information():  # 30
    rng = np.random.default_rng(0)
    (features,) = as32(rng.normal(size=(4, 6)))
    values = [
        losses.float_genes(features, jnp.concatenate([f, f]), batch=2)
        for f in as32(rng.normal(size=(2, 4)), rng.normal(size=(2, 4)))
    ]
    np.testing.assert_allclose(*values, rtol=1e-4)


@pytest.fixture(scope="module")
def slopes(variables, batch, seen):
    """Total and its gradient by feature, for each weight alone and world size."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(world, weights):
        method = dataclasses.replace(make(world_size_emulated=world), **weights)

        def loss(glb):
            own = dataclasses.replace(seen.glb, feature=glb)
            labels = (batch.grade, batch.biomarkers, batch.floats)
            return method.terms(variables, own, seen.pos, seen.neg, *labels)[0]

        return jax.value_and_grad(loss)(seen.glb.feature)

    fields = ("lambda_region", "lambda_dis_gene", "lambda_float_gene")
    return lambda world, name: jax.device_get(
        run(world, {f: 0.7 * (f == name) for f in fields})
    )


@pytest.mark.parametrize(
    "name", ["lambda_region", "lambda_dis_gene", "lambda_float_gene"]
)
def test_processes_divide_gradients_and_not_values(slopes, name):  # 29, 32
    # W = 1 and 2 glue the same pairs at N = 4 up to their order.
    one, gradient_one = slopes(1, name)
    two, gradient_two = slopes(2, name)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert float(np.abs(gradient_one).max()) > 1e-6
    np.testing.assert_allclose(
        gradient_two, gradient_one / 2, atol=1e-5 * float(np.abs(gradient_one).max())
    )


def test_processes_leave_cross_entropy_alone(variables, batch, seen):  # 32
    def gradient(world):
        method = make(world_size_emulated=world)

        def loss(logits):
            own = dataclasses.replace(seen.glb, global_logits=logits)
            return terms_of(method, variables, seen.replace(glb=own), batch)[0]

        return jax.jit(jax.grad(loss))(seen.glb.global_logits)

    np.testing.assert_array_equal(gradient(1), gradient(4))


def test_float_guidance_is_weighted_by_5_and_reads_features(  # 29
    method, variables, batch, seen
):
    total, terms = terms_of(method, variables, seen, batch)
    want = (
        terms["global_cls"]
        + terms["pos_cls"]
        + terms["neg_cls"]
        + 0.2 * terms["region"]
        + 0.2 * terms["dis_gene"]
        + 5 * terms["float_gene"]
    )
    np.testing.assert_allclose(total, want, rtol=1e-6)
    other = batch.replace(floats=batch.floats[::-1] ** 2)
    other = terms_of(method, variables, seen, other)[1]
    assert float(np.abs(other["float_gene"] - terms["float_gene"])) > 1e-5


def test_lambda_neg_weighs_the_negative_cross_entropy(  # 31
    variables, batch, seen
):
    one, terms = terms_of(make(lambda_neg=1.0), variables, seen, batch)
    three, _ = terms_of(make(lambda_neg=3.0), variables, seen, batch)
    np.testing.assert_allclose(three - one, 2 * terms["neg_cls"], rtol=1e-5)


# ---- F. Optimisation -----------------------------------------------------------------


def test_first_rate_is_0_and_warm_up_is_15_epochs():  # 34
    schedule = jax.jit(
        release_optimizer.learning_rate(base=1e-4, warmup=150, total=700)
    )
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(schedule(1), 1e-4 / 150, rtol=1e-6)
    np.testing.assert_allclose(schedule(150), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(schedule(425), 0.5e-4, rtol=1e-5)
    np.testing.assert_allclose(schedule(700), 0, atol=1e-12)


def test_rate_rises_again_past_the_end():  # 39
    schedule = release_optimizer.learning_rate(base=1e-4, warmup=15, total=70)
    assert float(schedule(75)) > 1e-6


def test_one_rate_and_decay_for_every_tensor(variables):  # 33, 36
    adamw = release_optimizer.optimizer(lambda step: 0.1, weight_decay=0.01)
    zero = jax.tree.map(np.zeros_like, variables.params)
    state = jax.jit(adamw.init)(variables.params)
    update = jax.jit(adamw.update)
    decay, _ = jax.device_get(update(zero, state, variables.params))
    for a, b in zip(
        jax.tree.leaves(decay), jax.tree.leaves(variables.params), strict=True
    ):
        np.testing.assert_allclose(a, -0.001 * b, rtol=1e-5, atol=1e-12)
    assert float(np.abs(decay["model"]["mask_token"]).max()) > 0
    ones = jax.tree.map(np.ones_like, variables.params)
    step, _ = update(ones, state, zero)
    for a in jax.tree.leaves(step):
        np.testing.assert_allclose(a, -0.1, rtol=1e-4)


def test_logged_share_is_of_shown_patches(whole_step, seen):  # 40
    kept = whole_step[0].metrics["kept"]
    np.testing.assert_allclose(kept, 1 - np.mean(np.asarray(seen.hide)), rtol=1e-6)


def test_gene_heads_have_no_second_layer():  # 26
    heads = model.Projectors(num_biomarkers=2)
    params = jax.jit(heads.init)(jax.random.key(0), jnp.ones((1, 8)))["params"]
    assert {name: a.shape for name, a in params.items()} == {
        "region_in": (8, 8),
        "region_out": (8, 64),
        "gene": (2, 8, 64),
    }
    zero = jax.tree.map(np.zeros_like, params)
    out = heads.apply({"params": zero}, jnp.ones((1, 8)))
    assert not np.any(out.gene)  # no bias
    assert not np.any(out.region)


def test_average_state_keeps_its_form(method, variables):
    after = jax.eval_shape(method.update_state, variables, jnp.asarray(0))
    assert jax.tree.structure(after) == jax.tree.structure(variables.state)
    assert isinstance(variables, Variables)


def test_training_uses_the_schedule_and_the_optimizer_that_are_replayed():
    # Recordings are replayed with parity/release_optimizer.py; a run uses
    # training/optimizer.py.
    from fof_jax.training import optimizer

    for t in (0, 1, 7, 15, 40, 70):
        ours = optimizer.cosine(t, learning_rate=1e-4, total_steps=70, warmup_steps=15)
        replayed = release_optimizer.learning_rate(base=1e-4, warmup=15, total=70)(t)
        assert ours == pytest.approx(float(replayed), rel=1e-6, abs=1e-12)
    params = {"w": jnp.asarray([0.5, -2.0]), "b": jnp.asarray([0.1])}
    gradient = {"w": jnp.asarray([1e-3, 0.2]), "b": jnp.asarray([-3.0])}
    theirs = release_optimizer.optimizer(lambda _: 1e-3, weight_decay=0.01)
    update, _ = theirs.update(gradient, theirs.init(params), params)
    ours = optimizer.adamw(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    direction, _ = ours.update(gradient, ours.init(params), params)
    moved = optimizer.apply(params, direction, jnp.float32(1e-3))
    for name, value in params.items():
        np.testing.assert_allclose(moved[name], value + update[name], rtol=1e-6)
