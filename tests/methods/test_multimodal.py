"""The method of the fusion rows: stages, branches, statistics, several devices.

Tolerances: 2e-6 of the largest gradient between one and two devices (float32).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fof_jax.methods import omics, omics_input
from fof_jax.methods.base import Inputs
from fof_jax.methods.fusion import pathomic
from fof_jax.models.pooled_tokens import PooledTokens
from fof_jax.types import DatasetInfo
from tests.support import fusion_rows, initial


@functools.cache
def make(row, size=4):
    method = fusion_rows.build(row)
    batch = fusion_rows.batch(size)
    frozen = fusion_rows.frozen(row)
    variables = initial.filled(method, batch, frozen)
    return method, variables, batch


@functools.partial(jax.jit, static_argnums=0)
def loss_of(method, variables, batch):
    return method.loss(variables, batch, fusion_rows.context())


def loss(method, variables, batch):
    """In one program; the result is on the host."""
    return jax.device_get(loss_of(method, variables, batch))


def test_stages_are_required_by_name():
    method = fusion_rows.build("pathomic_two_stage")
    with pytest.raises(ValueError, match="weights of the stage 'image' are missing"):
        jax.eval_shape(method.init, jax.random.key(0), fusion_rows.batch(), None)
    stages = {"image": fusion_rows.frozen("pathomic_two_stage")["image"]}
    with pytest.raises(ValueError, match="stage 'omics_network' are missing"):
        jax.eval_shape(method.init, jax.random.key(0), fusion_rows.batch(), stages)


def test_two_stage_form_starts_from_the_omics_stage():
    method, variables, batch = make("pathomic_two_stage")
    frozen = variables.frozen
    variables = jax.jit(method.init)(jax.random.key(0), batch, frozen)
    assert "image_encoder" not in variables.params
    expected = variables.frozen["omics_network"].params
    for a, b in zip(
        jax.tree.leaves(variables.params["omics_network"]),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_frozen_image_encoder_is_read_and_not_trained():
    method, variables, batch = make("pathomic_two_stage")

    def value(frozen):
        return method.loss(
            variables.replace(frozen=frozen), batch, fusion_rows.context()
        )[0]

    graded = jax.jit(jax.value_and_grad(value))
    before, gradient = jax.device_get(graded(variables.frozen))
    assert not any(np.any(g) for g in jax.tree.leaves(gradient["image"].params))
    other = jax.tree.map(lambda p: np.asarray(p) + 1, variables.frozen)
    assert graded(other)[0] != before


def test_unknown_form_is_refused():
    config = fusion_rows.namespace(fusion={"form": "three_stage", "dropout": 0.1})
    with pytest.raises(ValueError, match="expected one of two_stage, single_stage"):
        pathomic.build(config, DatasetInfo(fusion_rows.CLASSES, (), ()))


@pytest.mark.parametrize("row", ["concat", "pathomic"])
def test_branch_losses_are_added(row):
    method, variables, batch = make(row)
    total, out = loss(method, variables, batch)
    parts = [out.metrics[name] for name in ("fused", "image", "omics")]
    np.testing.assert_allclose(total, sum(map(float, parts)), rtol=1e-6)


def test_cut_gradient_keeps_the_fusion_out_of_the_encoders():
    config = fusion_rows.config("pathomic")
    gradients = []
    for cut in (False, True):
        config.fusion.cut_gradient = cut
        encoder = fusion_rows.SmallEncoder()
        method = fusion_rows.build_from("pathomic", config, encoder)
        batch = fusion_rows.batch()
        variables = initial.filled(method, batch)

        def fused(params, method=method, variables=variables, batch=batch):
            _, out = method.loss(
                variables.replace(params=params), batch, fusion_rows.context()
            )
            return out.metrics["fused"]

        gradients.append(jax.device_get(jax.jit(jax.grad(fused))(variables.params)))
    assert any(np.any(g) for g in jax.tree.leaves(gradients[0]["image_encoder"]))
    for name in ("image_encoder", "omics_network", "projection"):
        assert not any(np.any(g) for g in jax.tree.leaves(gradients[1][name]))


def test_training_moves_the_statistics_and_evaluation_reads_them():
    method, variables, batch = make("pathomic")
    _, out = loss(method, variables, batch)
    before, after = variables.state["batch_stats"], out.state["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.any(np.asarray(a) != b)
    moved = variables.replace(state=out.state)
    apply = jax.jit(method.apply)
    assert np.any(
        np.asarray(apply(variables, batch).logits) != apply(moved, batch).logits
    )
    assert method.update_state(moved, jnp.zeros((), jnp.int32)) is moved.state


@pytest.mark.slow
@pytest.mark.parametrize("row", ["pathomic", "ddmnet", "hfbsurv"])
def test_two_devices_are_one_device_on_the_global_batch(row):
    if jax.device_count() < 2:
        pytest.skip("one device")
    method, variables, batch = make(row, 6)

    def gradient(variables, batch, gather):
        def loss(params):
            return method.loss(
                variables.replace(params=params),
                batch,
                fusion_rows.context(gather=gather),
            )

        (value, out), g = jax.value_and_grad(loss, has_aux=True)(variables.params)
        return value, g, out.state

    value, expected, state = jax.device_get(
        jax.jit(lambda v, b: gradient(v, b, lambda x: x))(variables, batch)
    )

    def on_device(variables, batch):
        def gather(x):
            return lax.all_gather(x, "batch", tiled=True)

        value, g, state = gradient(variables, batch, gather)
        return value, lax.pmean(g, "batch"), state

    halves = jax.tree.map(lambda a: np.asarray(a).reshape(2, 3, *a.shape[1:]), batch)
    on_both = jax.pmap(on_device, "batch", in_axes=(None, 0), devices=jax.devices()[:2])
    values, found, states = jax.device_get(on_both(variables, halves))
    np.testing.assert_allclose(values, [value, value], rtol=2e-6)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[0], b, atol=2e-6 * largest)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a[0], a[1])
        np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6)


def test_row_weights_act_on_the_cross_entropy():
    method, variables, batch = make("scnn")
    plain = loss(method, variables, batch)[1].metrics["fused"]
    doubled = batch.replace(weight=np.full(4, 2, np.float32))
    twice = loss(method, variables, doubled)[1].metrics["fused"]
    np.testing.assert_allclose(twice, 2 * plain, rtol=1e-6)


def test_pooled_tokens_is_an_image_encoder():
    class Tokens(fusion_rows.nn.Module):
        def __call__(self, image):
            return image.reshape(image.shape[0], -1, image.shape[-1])

        def pool(self, tokens):
            return tokens.mean(axis=1)

    image = fusion_rows.batch().image
    out = PooledTokens(Tokens()).apply({}, image, train=True)
    np.testing.assert_allclose(out, image.mean(axis=(1, 2)), atol=1e-6)


def omics_row():
    config = fusion_rows.namespace(
        omics={"features": 32, "dropout": 0.25, "rectify": False}
    )
    return omics.build(config, DatasetInfo(fusion_rows.CLASSES, (), ()))


def test_omics_row():
    method, batch = omics_row(), fusion_rows.batch()
    variables = initial.filled(method, batch)
    assert method.inputs == Inputs(train=("omics",), test=("omics",))
    assert sum(p.size for p in jax.tree.leaves(variables.params)) == 11_027
    order = np.array([3, 1, 0, 2])
    apply = jax.jit(method.apply)
    out = jax.device_get(apply(variables, batch))
    permuted = apply(variables, jax.tree.map(lambda a: np.asarray(a)[order], batch))
    np.testing.assert_allclose(permuted.logits, out.logits[order], atol=1e-6)

    def value(params):
        return method.loss(
            variables.replace(params=params), batch, fusion_rows.context()
        )[0]

    gradient = jax.jit(jax.grad(value))(variables.params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert all(np.any(g) for g in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match="This row needs omics for a prediction"):
        method.apply(variables, fusion_rows.batch(omics=None))
    known = np.zeros((4, fusion_rows.OMICS), bool)
    with pytest.raises(ValueError, match="4 of 4 patients have no omics"):
        method.loss(
            variables, fusion_rows.batch(omics_known=known), fusion_rows.context()
        )


def test_omics_and_their_mask_have_one_shape():
    batch = fusion_rows.batch(omics_known=np.ones((4, 3), bool))
    with pytest.raises(ValueError, match=r"shape \(4, 3\), expected \(4, 80\)"):
        omics_input.require(batch, row="omics", inputs=Inputs(("omics",), ("omics",)))
