"""Every fusion row: counts, batch permutation, gradients, omics; equations by hand.

Tolerances: 1e-5 of float32 outputs for permutations and hand-computed values.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.fusion import ddmnet_losses, hfbsurv
from fof_jax.methods.fusion.ddmnet import DDMNetFusion
from fof_jax.methods.fusion.foaa import ArithmeticAttention, FOAAFusion
from fof_jax.methods.fusion.gpdbn import GPDBNFusion
from fof_jax.methods.fusion.hfbsurv import HFBFusion
from fof_jax.methods.fusion.pathomic import KroneckerFusion
from fof_jax.methods.fusion.scnn import SCNNFusion
from tests.support import fusion_rows, initial

# Parameters of the fusion module with 3 grades, at the published widths.
FUSION_COUNTS = {
    "concat": 3 * 256 + 3,
    "scnn": 1_467_027,
    "pathomic": 6_408_195,
    "pathomic_two_stage": 92_435,
    "gpdbn": 289_379,
    "hfbsurv": 124_990,
    "ddmnet": 134_867,
    "foaa": 16_055,
}
# GPDBN's published 289,381 include two constants that nothing trains.
ROWS = tuple(FUSION_COUNTS)
# Their recordings, which replay by default, hold the gradients.
REPLAYED = ("pathomic", "gpdbn", "ddmnet")


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module", params=ROWS)
def row(request):
    """Name, method, variables and compiled prediction of a row."""
    method = fusion_rows.build(request.param)
    frozen = fusion_rows.frozen(request.param)
    variables = initial.filled(method, fusion_rows.batch(), frozen)
    return request.param, method, variables, jax.jit(method.apply)


def test_every_row_is_counted():
    assert set(FUSION_COUNTS) == set(fusion_rows.MODULES)


def test_parameter_count(row):
    name, _, variables, _ = row
    assert count(variables.params["fusion"]) == FUSION_COUNTS[name]
    assert ("image_encoder" in variables.params) == (name != "pathomic_two_stage")


def test_permuting_the_batch_permutes_the_logits(row):
    _, method, variables, apply = row
    batch = fusion_rows.batch()
    order = np.array([2, 0, 3, 1])
    permuted = jax.tree.map(lambda a: np.asarray(a)[order], batch)
    expected = jax.device_get(apply(variables, batch))
    out = apply(variables, permuted)
    np.testing.assert_allclose(out.logits, expected.logits[order], atol=1e-5)
    np.testing.assert_allclose(out.features, expected.features[order], atol=1e-5)
    assert out.logits.shape == (4, method.num_classes)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (row in REPLAYED)) for row in ROWS],
    indirect=True,
)
def test_gradients_are_finite_and_reach_every_trained_tensor(row):
    name, method, variables, _ = row
    batch = fusion_rows.batch(6)

    def loss(params):
        return method.loss(
            variables.replace(params=params), batch, fusion_rows.context()
        )

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, out), gradient = jax.device_get(graded(variables.params))
    assert np.isfinite(value)
    assert float(out.metrics["total"]) == float(value)
    expected_zero = {("fusion", n) for n in ("input_1", "gate_1")}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        keys = tuple(k.key for k in path)
        assert np.isfinite(leaf).all(), keys
        zero = not np.any(leaf)
        if keys[:2] in expected_zero and name == "pathomic_two_stage":
            assert zero, keys
        if zero and name != "foaa":
            # The omics classifier of the two-stage form is trained by penalties.
            in_omics = keys[:2] == ("omics_network", "classifier")
            assert keys[:2] in expected_zero or in_omics, keys


def test_untrained_subtrees_exist(row):
    name, method, variables, _ = row
    expected = {("fusion", "input_1"), ("fusion", "gate_1")}
    assert set(method.untrained) == (
        expected if name == "pathomic_two_stage" else set()
    )
    for first, second in method.untrained:
        assert second in variables.params[first]


def test_missing_omics_are_refused(row):
    name, method, variables, apply = row
    with pytest.raises(ValueError, match="needs image and omics for a prediction"):
        jax.eval_shape(method.apply, variables, fusion_rows.batch(omics=None))
    known = np.ones((4, fusion_rows.OMICS), bool)
    known[2] = False
    batch = fusion_rows.batch(omics_known=known)
    if name == "ddmnet":
        assert np.isfinite(apply(variables, batch).logits).all()
        return
    with pytest.raises(ValueError, match=r"1 of 4 patients have no omics.*\[2\]"):
        method.apply(variables, batch)
    # A row that only fills an evaluation batch up is not a patient.
    filler = dataclasses.replace(batch, valid=np.array([True, True, False, True]))
    method.check(filler)


def test_unknown_entries_are_the_mean_of_the_training_fold(row):
    _, _, variables, apply = row
    known = np.random.default_rng(1).random((4, fusion_rows.OMICS)) < 0.7
    omics = fusion_rows.batch().omics
    out = apply(
        variables,
        fusion_rows.batch(omics=np.where(known, omics, np.nan), omics_known=known),
    )
    expected = apply(variables, fusion_rows.batch(omics=omics * known))
    np.testing.assert_array_equal(out.logits, expected.logits)


def start(module, *inputs, seed=0):
    """Variables on the host."""
    return initial.of_module(module, *inputs, seed=seed, train=False)


def run(module, **options):
    """The module in evaluation, in one program."""
    return jax.jit(functools.partial(module.apply, train=False, **options))


def init_and_apply(module, *inputs):
    variables = start(module, *inputs)
    return variables, run(module)(variables, *inputs)


def test_kronecker_product_is_row_major_with_a_one_appended():
    # Gates off, identity output layers: o = relu(v).
    module = KroneckerFusion(features=2, gates=(False, False), scales=(1, 1))
    image, omics = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])
    variables = start(module, image, omics)
    params = variables["params"]
    for i in (1, 2):
        params[f"output_{i}"] = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    captured = run(module, mutable=["intermediates"])
    _, state = captured({"params": params}, image, omics)
    k = state["intermediates"]["kronecker"][0]
    np.testing.assert_allclose(k, [[3, 4, 1, 6, 8, 2, 3, 4, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": (False, True), "scales": (2, 1)}, "the image gate is off"),
        ({"gates": (True, True), "scales": (3, 1)}, "expected a divisor"),
    ],
)
def test_kronecker_refuses_gates_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        init_and_apply(KroneckerFusion(**options), jnp.ones((1, 4)), jnp.ones((1, 4)))


def test_published_counts_of_other_forms():
    image, omics = jnp.zeros((1, 32)), jnp.zeros((1, 32))

    def size(module, *inputs):
        shapes = jax.eval_shape(
            lambda: module.init(jax.random.key(0), *inputs, train=False)
        )
        return sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes["params"]))

    # With one output, and the published class's two constants.
    assert size(GPDBNFusion(num_classes=1), image, omics) + 2 == 289_315
    three = {m: jnp.zeros((1, 80)) for m in ("gene", "path", "cona")}
    module = HFBFusion(num_classes=1, as_published=True)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), three, train=False, method="fuse")
    )
    total = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes["params"]))
    assert total + 2 == 206_262
    head = FOAAFusion(omics_widths=(20, 10, 64))
    assert size(head, jnp.zeros((1, 64)), jnp.zeros((1, 3))) == 3_349
    assert (
        size(FOAAFusion(), jnp.zeros((1, 64)), jnp.zeros((1, 80)))
        - (80 * 64 + 2 * 64 * 64 + 3 * 3 * 64)
        == 2_167
    )


def test_gpdbn_products_are_row_major():
    module = GPDBNFusion(bilinear_features=1, widths=(2,))
    image, omics = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]])
    variables = start(module, image, omics)
    params = variables["params"]
    # Picks omics[0] * image[1].
    zeros = functools.partial(np.zeros, dtype=np.float32)
    params["inter"] = {"kernel": np.eye(4, dtype=np.float32)[:, 1:2], "bias": zeros(1)}
    params["hidden_0"] = {"kernel": zeros((7, 2)), "bias": zeros(2)}
    params["hidden_0"]["kernel"][4, 0] = 1
    out = run(module)({"params": params}, image, omics)
    np.testing.assert_allclose(out.features, [[3.0 * 2.0, 0.0]])


def test_factorized_bilinear_by_hand():
    product = jnp.array([[1.0, 2.0, 3.0, -4.0]]) * jnp.array([[1.0, 1.0, -1.0, 1.0]])
    out = hfbsurv.factorized_bilinear(product=product, rank=2)
    np.testing.assert_allclose(out, [[0.5477226, -0.8366600]], atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), 1, atol=1e-6)


def test_factorized_bilinear_has_finite_gradients_at_zero():
    def total(product):
        return hfbsurv.factorized_bilinear(product=product, rank=2).sum()

    graded = jax.jit(jax.grad(total))
    for product in (jnp.zeros((1, 4)), jnp.array([[1.0, -1.0, 2.0, 1.0]])):
        assert np.isfinite(graded(product)).all()
    np.testing.assert_array_equal(graded(jnp.zeros((1, 4))), 0)


def test_hfb_with_two_modalities_has_an_inert_pair_weight():
    module = HFBFusion(hidden=4, intra=3, inter=3, rank=2, widths=(5, 4))
    image, omics = jnp.ones((2, 6)), jnp.ones((2, 7))
    variables = start(module, image, omics)
    _, state = run(module, mutable=["intermediates"])(variables, image, omics)
    np.testing.assert_array_equal(state["intermediates"]["weights"][0], 1)


def attention(operation, query, context, **options):
    module = ArithmeticAttention(operation, **options)
    variables = start(module, query, context, seed=1)
    apply = run(module)
    return module, variables, apply, apply(variables, query, context)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_foaa_quotient_is_the_mean_of_the_values():
    rng = normal(2, 3, 5)
    _, variables, _, out = attention("quotient", rng[0], rng[1])
    params = variables["params"]
    value = rng[1] * params["value"]["kernel"][0, 0] + params["value"]["bias"][0]
    mean = value.mean(axis=1, keepdims=True)  # [B, 1]
    expected = mean * params["out"]["kernel"][0, 0] + params["out"]["bias"][0]
    np.testing.assert_allclose(out, np.broadcast_to(expected, (3, 5)), atol=1e-5)


@pytest.mark.parametrize("operation", ["sum", "difference"])
def test_foaa_sum_and_difference_ignore_the_query(operation):
    rng = normal(3, 2, 5)
    _, variables, apply, out = attention(operation, rng[0], rng[1])
    out = np.asarray(out)
    np.testing.assert_allclose(out, apply(variables, rng[2], rng[1]), atol=1e-5)
    np.testing.assert_allclose(out, np.repeat(out[:, :1], 5, axis=1), atol=1e-5)


def test_foaa_product_depends_on_the_query():
    rng = normal(3, 2, 5)
    _, variables, apply, out = attention("product", rng[0], rng[1])
    assert not np.allclose(out, apply(variables, rng[2], rng[1]), atol=1e-3)


def test_foaa_quotient_over_entries_is_finite():
    rng = normal(2, 3, 5)
    _, variables, apply, out = attention("quotient", *rng, over_entries=True)
    graded = jax.jit(jax.grad(lambda p: apply({"params": p}, *rng).sum()))
    gradient = graded(variables["params"])
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_foaa_refuses_widths_and_operations_that_do_not_exist():
    with pytest.raises(ValueError, match="has width 5, expected 64"):
        init_and_apply(FOAAFusion(), jnp.ones((1, 5)), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="expected one of sum, product"):
        attention("power", jnp.ones((1, 3)), jnp.ones((1, 3)))


def test_scnn_without_omics_weights_reads_the_image_alone():
    module = SCNNFusion(widths=(5, 4, 3))
    image, omics = normal(2, 4), normal(2, 2, 3, seed=1)
    variables, out = init_and_apply(module, image, omics[0])
    apply = run(module)
    graded = jax.jit(jax.grad(lambda x: apply(variables, image, x).logits[:, 0].sum()))
    assert np.any(graded(omics[0]))
    params = variables["params"]
    kernel = params["hidden_0"]["kernel"].copy()
    kernel[4:] = 0
    params["hidden_0"]["kernel"] = kernel
    first, second = (apply({"params": params}, image, omics[i]) for i in (0, 1))
    np.testing.assert_array_equal(first.logits, second.logits)
    expected = 2e-4 * sum(
        float((np.asarray(params[f"hidden_{i}"]["kernel"]) ** 2).sum())
        for i in range(3)
    )
    assert float(first.losses["l2"]) == pytest.approx(expected, rel=1e-5)
    assert out.auxiliary is not None


def test_ddm_divergence_and_difference_by_hand():
    zero, one = jnp.zeros((1, 4)), jnp.ones((1, 4))
    assert ddmnet_losses.kl_divergence(mean=zero, log_variance=zero) == 0
    assert ddmnet_losses.kl_divergence(mean=one, log_variance=zero) == 2  # 1/2 each
    a = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
    b = jnp.array([[1.0], [1.0], [-1.0], [-1.0]])
    keep = jnp.ones(4, bool)
    assert float(ddmnet_losses.difference(a=a, b=b, keep=keep)) == 0
    np.testing.assert_allclose(
        ddmnet_losses.difference(a=a, b=a, keep=keep), 1, rtol=1e-6
    )


def test_ddm_imputes_what_the_transfer_gives():
    # A transfer that always gives the omics' own latent: imputed = full.
    module = DDMNetFusion(hidden=6, latent=4, part=3, features=5)
    image, omics = normal(1, 7), normal(1, 5, seed=1)
    variables = start(module, image, omics, seed=2)
    params = variables["params"]
    _, state = run(module, mutable=["intermediates"])(variables, image, omics)
    latent = np.asarray(state["intermediates"]["latent"][0]["omics"])
    kernel = np.zeros_like(params["to_omics_1"]["kernel"])
    params["to_omics_1"] = {"kernel": kernel, "bias": latent[0]}
    full = run(module)({"params": params}, image, omics)
    missing = run(module, known=jnp.array([[True, False]]))(
        {"params": params}, image, np.zeros_like(omics)
    )
    np.testing.assert_allclose(missing.logits, full.logits, atol=1e-6)
    assert float(missing.losses["impute"]) == 0  # no complete row


def test_ddm_drops_modalities_of_complete_rows_only():
    module = DDMNetFusion(hidden=6, latent=4, part=3, features=5, modality_rate=0.9)
    image, omics = normal(64, 7), normal(64, 5, seed=1)
    variables = start(module, image, omics, seed=2)

    @jax.jit
    def used(known):
        return module.apply(
            variables,
            known,
            True,
            method="_used",
            rngs={"dropout": jax.random.key(3)},
        )

    known = jnp.ones((64, 2), bool)
    kept = np.asarray(used(known))
    assert kept.any(axis=1).all()  # never both
    assert 0.7 < (~kept).any(axis=1).mean() <= 1
    assert (~kept[:, 0]).any()
    assert (~kept[:, 1]).any()
    image_only = known.at[:, 1].set(False)
    np.testing.assert_array_equal(used(image_only), image_only)
