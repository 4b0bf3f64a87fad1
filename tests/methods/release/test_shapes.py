"""The release's method away from the recordings: other sizes, zeros, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.release import labels, losses
from fof_jax.models import vit
from fof_jax.types import Batch
from tests.support import initial, methods


def make(size=(12, 16), *, patch=4, depth=2, encoder=None, **changes):
    encoder = encoder or vit.ViT(
        size=vit.Size(width=16, depth=depth, heads=2, mlp=32),
        patch=patch,
        image_size=size,
        implementation="naive",
        remat="none",
    )
    fields = {"data_label_transform": "raw", "world_size_emulated": 1} | changes
    return methods.make("release", encoder, **{"biomarkers": 6, "floats": 4} | fields)


def draw(method, rows, *, genes=6, floats=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (2, rows, *method.network.encoder.image_size, 3)
    image, second = rng.normal(size=shape).astype(np.float32)
    status = jnp.asarray(rng.integers(-2, 3, size=(rows, genes)), jnp.int32)
    return Batch(
        image=jnp.asarray(image),
        second_view=jnp.asarray(second),
        grade=jnp.asarray(rng.integers(0, method.num_classes, rows), jnp.int32),
        biomarkers=status,
        known=jnp.ones_like(status, bool),
        floats=jnp.asarray(rng.normal(size=(rows, floats)), jnp.float32),
        index=jnp.arange(rows),
        epoch=jnp.zeros(rows, jnp.int32),
        valid=jnp.ones(rows, bool),
    )


@functools.partial(
    jax.jit,
    static_argnums=0,
    compiler_options={"xla_backend_optimization_level": 0},  # compiles faster
)
def gradient_of(method, variables, batch):
    def loss(params):
        own = variables.replace(params=params)
        return method.loss(own, batch, methods.CTX)

    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
    return value, aux, gradient


@pytest.fixture(scope="module")
def five_classes():
    """K = 5, N = 9, three emulated processes; shared, for it takes long to compile."""
    method = make(classes=5, biomarkers=9, world_size_emulated=3)
    batch = draw(method, 6, genes=9)
    return method, batch, initial.filled(method, batch, {})


def all_finite(tree):
    return all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(tree))


@pytest.mark.slow
def test_five_classes_nine_biomarkers(five_classes):
    method, batch, variables = five_classes
    value, aux, gradient = gradient_of(method, variables, batch)
    assert all_finite((value, aux, gradient))
    assert float(value) > 0
    output = jax.eval_shape(method.apply, variables, batch)
    assert output.logits.shape == (6, 5)


@pytest.mark.slow
def test_odd_patches_more_blocks_two_classes_not_square():
    method = make((21, 35), patch=7, depth=5, classes=2, biomarkers=1)
    batch = draw(method, 5, genes=1)
    variables = initial.filled(method, batch, {})
    assert all_finite(gradient_of(method, variables, batch))
    A = jax.jit(method.class_activation_map)(variables, batch.image, batch.grade)
    assert A.shape == (5, 21, 35)
    assert 0 <= float(A.min()) <= float(A.max()) <= 1
    assert method.patch_mask(A).shape == (5, 3, 5)


@pytest.mark.slow
def test_terms_without_columns_are_0():
    method = make(biomarkers=0, lambda_dis_gene=0.0, floats=0, lambda_float_gene=0.0)
    batch = draw(method, 1, genes=0, floats=0)
    variables = initial.filled(method, batch, {})
    value, aux, gradient = gradient_of(method, variables, batch)
    assert all_finite((value, aux, gradient))
    assert float(aux.metrics["dis_gene"]) == float(aux.metrics["float_gene"]) == 0


@pytest.mark.slow
def test_dead_features_and_a_map_of_zeros(five_classes):
    """Weights of 0 give zero features, projections, gradients of the class score."""
    method, batch, variables = five_classes
    zero = jax.tree.map(jnp.zeros_like, variables)
    value, aux, gradient = gradient_of(method, zero, batch)
    assert all_finite((value, aux, gradient))
    assert float(aux.metrics["kept"]) == 0  # a map of zeros hides everything


def test_a_zero_row_has_finite_gradients():
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    rows[2] = 0
    z = jnp.asarray(rows)

    def region(z):
        return losses.region(glb=z[:2], pos=z[2:4], neg=z[4:], tau=0.07)

    def contrast(z):
        status = jnp.asarray([0, 0, 0, 1, 1, 2])
        return losses.supervised_contrastive(z, status, tau=0.07)

    def guidance(z):
        return losses.float_genes(z, jnp.ones((6, 4)).at[1].set(0), batch=6)

    for loss in (region, contrast, guidance):
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
        assert all_finite((value, gradient)), loss.__name__
        assert float(jnp.abs(gradient).max()) > 0


@pytest.mark.slow
def test_unknown_markers_count_with_the_stored_value(five_classes):
    method, batch, variables = five_classes
    want = gradient_of(method, variables, batch)[1].metrics
    unknown = batch.replace(known=jnp.zeros_like(batch.known))
    found = gradient_of(method, variables, unknown)[1].metrics
    assert float(found["dis_gene"]) == float(want["dis_gene"]) > 0
    other = batch.replace(biomarkers=batch.biomarkers[::-1])
    other = gradient_of(method, variables, other)[1].metrics
    assert float(other["dis_gene"]) != float(want["dis_gene"])


def _same(a):
    return a


def test_bad_input_is_named():
    method = make(world_size_emulated=2)
    batch = draw(method, 3)
    variables = jax.eval_shape(method.init, jax.random.key(0), batch, {})

    def run(variables, batch):
        return method.loss(variables, batch, methods.CTX)

    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        jax.eval_shape(run, variables, batch)
    with pytest.raises(ValueError, match="second colour view"):
        jax.eval_shape(run, variables, batch.replace(second_view=None))
    with pytest.raises(ValueError, match="float_markers names no column"):
        make(floats=0)
    with pytest.raises(ValueError, match="biomarkers names no column"):
        make(biomarkers=0)
    with pytest.raises(ValueError, match="world_size_emulated: got 0"):
        make(world_size_emulated=0)
    with pytest.raises(ValueError, match=r"cam.block: got -3, expected -2 … -1"):
        jax.eval_shape(make(cam_block=-3).init, jax.random.key(0), batch, {})
    with pytest.raises(ValueError, match="label_transform: 'z' does not exist"):
        make(data_label_transform="z")
    with pytest.raises(ValueError, match="needs a mean and a positive standard"):
        labels.check(name="zscore_trunc", means=(), stds=(), num_biomarkers=6)
    with pytest.raises(ValueError, match="needs a mean"):
        labels.transform(
            jnp.zeros((2, 1), jnp.int32), name="zscore_trunc", means=(0.0,), stds=(0.0,)
        )
