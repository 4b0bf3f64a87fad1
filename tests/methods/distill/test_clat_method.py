"""CLAT's two stages as methods: inputs, state, two devices, and what is published.

Gradients of two devices agree with those of one to 5e-5 of the tensor's maximum or
1e-2 of the largest of all, which is float32 rounding of differently ordered sums;
states to 1e-4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from fof_jax.configs import comparison
from fof_jax.methods.distill import clat, clat_multimodal
from fof_jax.types import Batch, DatasetInfo, StepContext

B, SIDE, OMICS, FOLD = 6, 8, 9, 12
# Nine rectangles.
SUPERPIXELS = np.arange(SIDE)[:, None] * 3 // SIDE * 3 + np.arange(SIDE) * 3 // SIDE
SUPERPIXELS = SUPERPIXELS.astype(np.uint8)


class Encoder(nn.Module):
    """A dense layer on the pixels."""

    @nn.compact
    def __call__(self, image, *, train):
        del train
        return nn.Dense(7)(image.reshape(len(image), -1))


CLAT = {
    "features": 6, "dropout": 0.0, "superpixels": 9, "masked_superpixels": 2,
    "masked_omics": 3, "l1": 3e-4, "ema_decay": 0.99, "mask_from": 0.1,
    "as_published": False, "embedding": 5, "positives": 3, "alpha": 1.0,
    "beta": 0.05, "temperature": 0.07, "bank_momentum": 0.5, "query_cap": 1.0,
    "threshold": 0.25,
}  # fmt: skip
INFO = DatasetInfo(("II", "III", "IV"), (), ())


def build(**changes):
    """Both stages of a config on a small encoder."""
    config = comparison.get_config("phantom-distill.clat")
    with config.unlocked():
        config.clat = ConfigDict(CLAT | changes)
    teacher = clat_multimodal.build(config, INFO)
    teacher = dataclasses.replace(teacher, encoder=Encoder())
    student = clat.build(config, INFO)
    return teacher, dataclasses.replace(student, encoder=Encoder(), teacher=teacher)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, B, SIDE, SIDE, 3)).astype(np.float32)
    # Positions in a store that also holds regions of other folds.
    index = 3 * rng.permutation(FOLD)[:B].astype(np.int32) + 1
    none = np.zeros((B, 0), np.float32)
    made = Batch(
        image=image[0],
        second_view=image[1],
        grade=(index // 3 % 3).astype(np.int32),
        biomarkers=none.astype(np.int32),
        known=none.astype(bool),
        floats=none,
        index=index,
        epoch=np.zeros(B, np.int32),
        valid=np.ones(B, bool),
        omics=rng.normal(size=(B, OMICS)).astype(np.float32),
        superpixels=np.tile(SUPERPIXELS, (B, 1, 1)),
        omics_known=rng.random((B, OMICS)) > 0.1,
    )
    return jax.tree.map(jnp.asarray, made)


def context(key=0, step=1, progress=0.5, gather=lambda a: a):
    return StepContext(
        key=jax.random.key(key),
        step=jnp.int32(step),
        progress=jnp.float32(progress),
        gather=gather,
    )


@functools.cache
def methods(**changes):
    """Both stages with their variables."""
    teacher, student = build(**changes)
    first = teacher.init(jax.random.key(1), batch(), None)
    rows = np.arange(FOLD)
    labels = {"index": 3 * rows + 1, "grade": (rows % 3).astype(np.int32)}
    frozen = {"teacher": first, "labels": labels}
    second = student.init(jax.random.key(2), batch(), frozen)
    return {"teacher": (teacher, first), "student": (student, second)}


@functools.cache
def compiled(method):
    """Loss, its output and the gradient, compiled once for all tests."""

    @jax.jit
    def run(variables, batch, step, progress):
        ctx = context().replace(step=step, progress=progress)

        def loss(params):
            return method.loss(variables.replace(params=params), batch, ctx)

        return jax.value_and_grad(loss, has_aux=True)(variables.params)

    return run


def step(method, variables, batch, *, at=1, progress=0.5):
    """Loss, its output and the gradient at a step."""
    at, progress = np.int32(at), np.float32(progress)
    return jax.device_get(compiled(method)(variables, batch, at, progress))


def close(ours, theirs, tolerance):
    largest = max(float(np.abs(a).max()) for a in jax.tree.leaves(theirs))

    def compare(a, b):
        scale = max(float(np.abs(b).max()), 1e-2 * largest)
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * scale

    jax.tree.map(compare, ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "published", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_two_devices_compute_what_one_computes(stage, published):
    method, variables = methods(as_published=published)[stage]
    data = batch()
    (one, aux), gradient = step(method, variables, data)

    def local(params, rows):
        ctx = context(gather=lambda a: jax.lax.all_gather(a, "batch", tiled=True))

        def loss(params):
            return method.loss(variables.replace(params=params), rows, ctx)

        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, out.state, jax.lax.pmean(gradient, "batch")

    halves = jax.tree.map(
        lambda a: np.asarray(a).reshape(2, B // 2, *a.shape[1:]), data
    )
    two, state, gradients = jax.device_get(
        jax.pmap(local, "batch", in_axes=(None, 0))(variables.params, halves)
    )
    np.testing.assert_allclose(two, [one, one], rtol=1e-5)
    for device in (0, 1):
        of_device = jax.tree.map(lambda a, d=device: a[d], (gradients, state))
        close(of_device[0], gradient, 5e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            of_device[1],
            aux.state,
        )


@pytest.mark.slow  # two programs; the recording has the moved state
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_the_state_moves_and_keeps_its_form(stage):
    method, variables = methods()[stage]
    _, aux = step(method, variables, batch(), at=0)[0]
    assert jax.tree.structure(aux.state) == jax.tree.structure(variables.state)
    moved = variables.replace(
        params=jax.tree.map(lambda a: np.asarray(a) + 1, variables.params),
        state=aux.state,
    )
    update = jax.jit(method.update_state)
    average = update(moved, jnp.int32(0))["average"]["params"]
    for name, copied in average.items():  # alpha is 0 at step 0
        jax.tree.map(np.testing.assert_array_equal, copied, moved.params[name])
    average = update(moved, jnp.int32(1))["average"]["params"]
    new, old = moved.params["encoder"], aux.state["average"]["params"]["encoder"]
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, (b + c) / 2, rtol=1e-6),
        average["encoder"],
        new,
        old,
    )


@pytest.mark.slow  # the program of a step, which nothing else here needs
def test_rows_of_the_banks_that_move_are_those_of_the_batch():
    method, variables = methods()["student"]
    data = batch()
    _, aux = step(method, variables, data)[0]
    for name, memory in aux.state["memories"].items():
        before = variables.state["memories"][name]
        for bank in ("student", "teacher"):
            changed = np.any(getattr(memory, bank) != getattr(before, bank), axis=1)
            np.testing.assert_array_equal(
                np.flatnonzero(changed), np.sort(data.index // 3)
            )
        assert float(memory.z_student) > 0


def test_the_student_is_tested_by_the_image_alone():
    method, variables = methods()["student"]
    data = batch()
    alone = dataclasses.replace(data, omics=None, omics_known=None, second_view=None)
    apply = jax.jit(method.apply)
    out, other = (apply(variables, b) for b in (data, alone))
    np.testing.assert_array_equal(out.logits, other.logits)
    assert out.logits.shape == (B, 3)
    assert method.inputs.test == ("image",)
    teacher, first = methods()["teacher"]
    assert jax.eval_shape(teacher.apply, first, data).features.shape == (B, 6)
    with pytest.raises(ValueError, match="no omics"):
        teacher.apply(first, alone)


def test_unknown_omics_are_not_read():
    teacher, first = methods()["teacher"]
    data = batch()
    changed = jnp.where(data.omics_known, data.omics, jnp.nan)
    apply = jax.jit(teacher.apply)
    other = apply(first, dataclasses.replace(data, omics=changed))
    np.testing.assert_array_equal(apply(first, data).logits, other.logits)


def test_the_teacher_moves_only_as_published():
    for published in (False, True):
        method, variables = methods(as_published=published)["student"]
        _, aux = step(method, variables, batch())[0]
        assert ("teacher" in aux.state) == published
    before = variables.frozen["teacher"].state["batch_stats"]["heads"]["image"]["mean"]
    assert np.any(
        aux.state["teacher"]["batch_stats"]["heads"]["image"]["mean"] != before
    )


@pytest.mark.parametrize(
    "stage", [pytest.param("teacher", marks=pytest.mark.slow), "student"]
)
def test_at_step_0_the_average_is_the_student_unless_as_published(stage):
    method, variables = methods()[stage]
    stale = jax.tree.map(np.zeros_like, variables.state["average"])
    changed = variables.replace(state=variables.state | {"average": stale})
    totals = [step(method, v, batch(), at=0)[0][0] for v in (variables, changed)]
    np.testing.assert_array_equal(*totals)
    later = [step(method, v, batch(), at=1)[0][0] for v in (variables, changed)]
    assert later[0] != later[1]


@pytest.mark.slow  # the recording has it
def test_masking_begins_at_its_share_of_the_training():
    teacher, first = methods(as_published=True)["teacher"]
    (early, aux), _ = step(teacher, first, batch(), progress=0.05)
    (late, _), _ = step(teacher, first, batch(), progress=0.15)
    masked = aux.metrics["kl_masked_image"] + aux.metrics["kl_masked_omic"]
    np.testing.assert_allclose(late - early, masked, rtol=1e-4)
    pixels, omics = jax.jit(teacher.input_masks)(first, batch(), context())
    assert (np.asarray(omics).sum(1) == 3).all()
    assert 0.1 < np.asarray(pixels).mean() < 0.4


def test_what_is_missing_is_named():
    for stage in ("teacher", "student"):
        method, variables = methods()[stage]
        data = batch()
        for field, message in (
            ("omics", "no omics"),
            ("second_view", "no second view"),
        ):
            lacking = dataclasses.replace(data, **{field: None})
            with pytest.raises(ValueError, match=message):
                jax.eval_shape(method.loss, variables, lacking, context())
    student = methods()["student"][0]
    with pytest.raises(ValueError, match="teacher and labels missing"):
        jax.eval_shape(student.init, jax.random.key(0), batch(), None)
    few = {"teacher": None, "labels": {"index": np.arange(2), "grade": np.arange(2)}}
    with pytest.raises(ValueError, match="2 regions in the training fold"):
        jax.eval_shape(student.init, jax.random.key(0), batch(), few)


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_small_batch_is_learned(stage):
    method, variables = methods()[stage]
    name = "ce_fused" if stage == "teacher" else "ce"
    update = jax.jit(method.update_state)
    history = []
    for t in range(25):
        (_, out), gradient = step(method, variables, batch(), at=t)
        params = jax.tree.map(
            lambda p, g: np.asarray(p) - 0.02 * g, variables.params, gradient
        )
        variables = variables.replace(params=params, state=out.state)
        variables = variables.replace(state=update(variables, np.int32(t)))
        history.append(float(out.metrics[name]))
    assert np.isfinite(history).all()
    assert history[-1] < 0.8 * history[0]


@pytest.mark.slow  # one more program
def test_dropout_changes_the_loss_of_the_teacher():
    teacher, _ = build(dropout=0.5)
    variables = methods()["teacher"][1]
    data = batch()
    run = jax.jit(lambda k: teacher.loss(variables, data, context().replace(key=k))[0])
    first, same, other = (run(jax.random.key(k)) for k in (0, 0, 1))
    assert first == same
    assert first != other
