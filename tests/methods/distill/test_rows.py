"""Every row as its `build` makes it, and the tested network against the Baseline's."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from fof_jax.configs import comparison
from fof_jax.methods import registry
from fof_jax.methods.baseline import Model
from fof_jax.methods.distill import dgkd
from fof_jax.models import vit, vit_variants
from fof_jax.types import DatasetInfo
from tests.methods.distill import networks

INFO = DatasetInfo(("II", "III", "IV"), (), ())
ROWS = {
    "kl": ("kl",),
    "features_kl": ("kl", "features_kl"),
    "pkt": ("kl", "pkt"),
    "sp": ("kl", "sp"),
    "rkd": ("kl", "rkd"),
    "crd": ("kl", "crd"),
    "hkd": ("kl", "hkd"),
    "sckd": ("kl", "features_kl"),
    "dgkd_student": ("kl", "kl_ema", "dc", "dc_ema"),
}


def config(row, **options):
    distill = {
        "alpha": 1.0,
        "temperature": 1.0,
        "beta": 0.02,
        "ramp_epochs": None,
        "mask": "sample",
        "as_published": False,
    }
    made = comparison.get_config(f"phantom-distill.{row}")
    with made.unlocked():
        made.distill = ml_collections.ConfigDict(distill | options)
    return made


def build(row, encoder=None, **options):
    method = registry.create(config(row, **options), INFO)
    return dataclasses.replace(
        method,
        encoder=networks.Encoder() if encoder is None else encoder,
        teacher=networks.Teacher(),
    )


@pytest.mark.parametrize("row", list(ROWS))
def test_a_row_has_its_terms_and_a_finite_loss(row):
    method = build(row)
    assert tuple(term.name for term in method.terms) == ROWS[row]
    variables = networks.started(method, seed=0)
    # The gradients of the same terms are those of the battery in test_student.py.
    loss = jax.jit(method.loss)(variables, networks.batch(), networks.context())
    for leaf in jax.tree.leaves(jax.device_get(loss)):
        assert np.isfinite(leaf).all()


def test_the_weight_of_none_is_measured():
    method = build("sp", beta=None)
    variables = networks.started(method, seed=0)
    assert variables.state["measured"]["batches"] == 0


def test_the_published_forms_are_flags():
    published = build("dgkd_student", as_published=True)
    assert published.teacher_trains
    assert published.independent_average
    assert all(t.swapped for t in published.terms[2:])
    plain = build("dgkd_student")
    assert not plain.teacher_trains
    assert not any(t.swapped for t in plain.terms[2:])
    assert build("crd", ramp_epochs=30).terms[1].ramp_epochs == 30
    assert build("sckd", mask="batch").rule == "agrees_batch"
    assert build("sckd").rule == "agrees_sample"
    with pytest.raises(ValueError, match="'sample' or 'batch'"):
        build("sckd", mask="pixel")


@pytest.mark.slow
@pytest.mark.parametrize("row", ["sp", "crd"])
def test_the_tested_network_with_a_vit_is_the_baselines(row):
    size = vit_variants.SIZES["mu"]
    encoder = vit.ViT(size=size, patch=16, image_size=(32, 32))
    method = build(row, encoder)
    whole = networks.batch(2)
    image = np.random.default_rng(1).standard_normal((2, 32, 32, 3), np.float32)
    whole = whole.replace(image=image)
    variables = networks.started(method, whole, seed=0)
    baseline = Model(encoder=encoder, num_classes=3, cam_block=-2)
    alone = method.network.parameters(variables.params)
    own = jax.eval_shape(baseline.init, jax.random.key(2), image)["params"]
    assert jax.tree.structure(alone) == jax.tree.structure(own)
    wanted = jax.jit(baseline.apply)({"params": alone}, image)
    ours = jax.jit(method.apply)(variables, whole)
    for got, want in ((ours.features, wanted.features), (ours.logits, wanted.logits)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_teacher_of_a_configuration_has_the_published_sizes():
    options = {
        "features": 128,
        "dropout": 0.1,
        "cut_gradient": True,
        "decay": 0.99,
        "l1": 3e-4,
        "as_published": False,
    }
    made = comparison.get_config("phantom-distill.dgkd")
    with made.unlocked():
        made.dgkd = ml_collections.ConfigDict(options)
    method = dgkd.build(made, INFO)
    network = method.network.clone(image_encoder=networks.Encoder())
    method = dataclasses.replace(method, network=network)
    omics = jnp.zeros((2, 80))
    batch = networks.batch(2).replace(omics=omics)
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), batch).params)

    def count(tree):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    assert count(shapes["omics_network"]) == 14_483
    # The published count is of the fusion without its classifier.
    fusion = {k: v for k, v in shapes["fusion"].items() if k != "classifier"}
    assert count(fusion) == 6_407_808
    assert method.inputs.second_view == "crop"
