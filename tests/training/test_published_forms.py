"""Published forms of the comparison rows: the specification's numbers, and a step.

NUMBERS were typed from "Recipes as published" of the specifications, and the rates of
the first and the last epoch from their formulas.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.configs import comparison, published_forms
from fof_jax.data import column_statistics
from fof_jax.data.graphs import padding, record
from fof_jax.methods import registry
from fof_jax.training import build, optimizer, state
from fof_jax.types import Batch, DatasetInfo

ROOT = Path(__file__).parents[2]
INFO = DatasetInfo(("II", "III", "IV"), ("idh",), (), tuple(f"o{i}" for i in range(80)))
DGKD = ("resnet18", 5e-4, 0.9, 4e-4, 16, 30, 30 / 31, 1 / 31)
# encoder, rate, beta1, L2, batch, epochs, factor of the first and of the last epoch
NUMBERS = {
    "image.resnet18": DGKD,
    "image.vgg19bn": ("vgg19bn", 5e-4, 0.9, 4e-4, 8, 50, 50 / 51, 1 / 51),
    "omics": ("mu/8", 2e-3, 0.9, 5e-4, 64, 50, 50 / 51, 1 / 51),
    "pathgcn": ("Ti/16", 2e-3, 0.9, 4e-4, 32, 450, 450 / 451, 1 / 451),
    "fusion.pathomic": ("vgg19bn", 1e-4, 0.5, 4e-4, 32, 30, 1.0, 1 / 21),
    "fusion.gpdbn": ("resnet18", 2e-4, 0.9, 1e-6, 16, 150, 150 / 151, 1 / 151),
    "fusion.hfbsurv": ("resnet18", 1.2e-4, 0.9, 1e-6, 16, 100, 1.0, 1.0),
    "fusion.scnn": ("vgg19bn_unfrozen", 1e-3, 0.9, 0.0, 14, 100, 1.0, 1.0),
    "fusion.concat": DGKD,
    "fusion.ddmnet": DGKD,
    "distill.dgkd": DGKD,
    "distill.clat": DGKD,
    **dict.fromkeys(comparison.STUDENTS, DGKD),
}


def config_of(row, data="phantom"):
    return comparison.get_config(f"{data}-{row},as_published")


@pytest.mark.parametrize("row", NUMBERS)
def test_numbers_are_those_of_the_specification(row):
    made = config_of(row, "gbmlgg" if row != "omics" else "phantom")
    encoder, rate, beta1, l2, batch, epochs, first, last = NUMBERS[row]
    options = made.optimizer
    assert (made.encoder, made.batch_size, made.epochs) == (encoder, batch, epochs)
    assert (options.name, options.beta1, options.beta2) == ("adam_l2", beta1, 0.999)
    assert (options.learning_rate, options.weight_decay) == (rate, l2)
    for epoch, factor in ((0, first), (epochs - 1, last)):
        found = optimizer.learning_rate(made, epoch * 7, steps_per_epoch=7)
        assert found == pytest.approx(rate * factor, rel=1e-12)


def test_every_row_but_those_of_fof_has_a_published_form():
    without = {*comparison.IMAGE, "image.swinv2"}
    assert set(published_forms.FIELDS) == set(comparison.ROWS) - without
    with pytest.raises(ValueError, match="row 'fof' has no other form"):
        comparison.get_config("fof,as_published")
    with pytest.raises(ValueError, match="form 'as_is' does not exist"):
        comparison.get_config("omics,as_is")


def test_quirks_of_the_corrections():
    crd = config_of("distill.crd")
    assert (crd.distill.beta, crd.distill.ramp_epochs) == (0.02, 30)
    assert crd.distill.as_published
    assert crd.dgkd.as_published
    assert config_of("fusion.hfbsurv").optimizer.l1 == 3e-3
    assert config_of("fusion.gpdbn").optimizer.l1_of == ""
    assert config_of("fusion.foaa").fusion.dropout == 0.01
    pathomic = config_of("fusion.pathomic")
    assert pathomic.stages == ("image", "omics_network", "fusion_of_both")
    omics = registry.stage_config(pathomic, "omics_network")
    assert (omics.batch_size, omics.optimizer.l1_of) == (64, "")
    assert omics.optimizer.learning_rate == 2e-3
    assert omics.init.checkpoint is None
    image = registry.stage_config(pathomic, "image")
    assert image.optimizer.beta1 == 0.9
    assert (pathomic.optimizer.frozen, pathomic.optimizer.l1_of) == (
        "omics_network",
        "omics_network",
    )


def test_a_subtree_is_frozen_for_four_epochs_and_penalized_afterwards():
    options = config_of("fusion.pathomic")
    made = optimizer.from_config(options)
    params = {"omics_network": {"w": jnp.float32([2, -3])}, "fusion": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    moments = made.init(params)
    for epoch, moves in ((0, False), (3, False), (4, True)):
        step, _ = made.update(zero, moments, params, epoch=jnp.int32(epoch))
        assert bool((step["omics_network"]["w"] != 0).any()) == moves
        # L2 alone moves the rest; Adam's first direction is the gradient's sign.
        np.testing.assert_allclose(step["fusion"], 1, atol=1e-3)
    np.testing.assert_allclose(step["omics_network"]["w"], [1, -1], atol=1e-3)
    # Against the gradient L1 sign(w) + L2 w, through the first moment.
    _, after = made.update(zero, moments, params, epoch=jnp.int32(4))
    (mean,) = (
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(after)
        if "mean" in jax.tree_util.keystr(path)
        and "omics_network" in jax.tree_util.keystr(path)
    )
    expected = 0.5 * (3e-4 * np.sign([2, -3]) + 4e-4 * np.array([2, -3]))
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def shapes_of(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def step_shapes(config, frozen):
    """Traces initialization and a step; the state's shapes before and after."""
    setup = build.build(config, INFO)
    # All students have one teacher.
    known = setup.method, config.optimizer.to_json_best_effort(), shape_key(frozen)
    if known not in TRACED:
        TRACED[known] = trace_step(setup, frozen)
    return TRACED[known]


TRACED = {}


def shape_key(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((a.shape, a.dtype) for a in leaves)


def trace_step(setup, frozen, side=64):
    size = 8
    image = jnp.zeros((size, side, side, 3))
    batch = Batch(
        image=image,
        second_view=image,
        grade=jnp.zeros(size, jnp.int32),
        index=jnp.zeros(size, jnp.int32),
        epoch=jnp.zeros(size, jnp.int32),
        omics=jnp.zeros((size, 80)),
        omics_known=jnp.ones((size, 80), bool),
        superpixels=jnp.zeros((size, side, side), jnp.uint8),
        graph=padding.pad([graph()] * size, bucket=16),
    )

    def run(frozen, batch):
        first = state.initial_state(
            setup.method, setup.optimizer, jax.random.key(0), batch, frozen
        )
        given = state.Schedule(jnp.float32(1e-3), jnp.float32(0.5), jnp.int32(3))
        new, metrics = state.update(
            setup.method, setup.optimizer, first, batch, given, frozen, setup.step_key
        )
        return first, new, metrics

    return jax.eval_shape(run, frozen, batch)


def graph(nodes=5, columns=12):
    names = [f"c{i}" for i in range(columns)]
    rows = np.zeros((nodes, columns)), np.zeros((2, 3), int), np.zeros((nodes, 2))
    return record.create(*rows, names)


def constants():
    row = jnp.zeros(80)
    index = jnp.arange(64, dtype=jnp.int32)
    return {
        "columns": column_statistics.measure([graph().x])._asdict(),
        "omics": {"mean": row, "std": row + 1, "median": row},
        "labels": {"index": index, "grade": index % 3},
    }


FAST = ("omics", "fusion.foaa")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row in FAST else pytest.mark.slow)
        for row in published_forms.FIELDS
    ],
)
def test_every_form_builds_and_takes_a_step(row):
    config, frozen = config_of(row), constants()
    names = tuple(config.stages) or ("",)
    for name in names:
        own = registry.stage_config(config, name) if name else config
        before, after, metrics = step_shapes(own, frozen)
        assert shapes_of(before.params) == shapes_of(after.params)
        assert metrics["total"].shape == ()
        frozen = frozen | {name: after.variables({})}


@pytest.mark.slow
def test_a_form_trains_by_its_command(tmp_path):
    words = [
        f"--config={ROOT}/configs/comparison.py:omics,as_published",
        f"--config.data.dir={tmp_path}/data",
        "--config.data.regions=30",
        "--config.folds=2",
        "--config.fold=0",
        "--config.epochs=2",
        "--config.batch_size=4",
        f"--workdir={tmp_path}/run",
    ]
    assert main(words) == 0
    assert (tmp_path / "run/fold_0/predictions.csv").exists()
