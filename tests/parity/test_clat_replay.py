"""Both stages of CLAT against recordings of the published code, and wrong readings.

Tolerances are those of the replays (parity/rows/clat_rows.py): arrays of step 0 2e-5
and of later steps 3e-4 of the array's maximum, losses 1e-5 and 3e-4, gradients 1e-4,
parameters 5e-5 absolute; masks, neighbors and weights exact. A wrong reading of the
contrast or of the weights must change it by `least`, nine tenths of what the
recordings' description measured; the right one by less than 2e-6.
"""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_masks as masks
from fof_jax.methods.distill import clat_teacher
from fof_jax.parity import comparison
from fof_jax.parity.rows import clat, clat_names, clat_stage1, clat_stage2

GOLDEN = Path(__file__).parents[1] / "golden" / "methods"


@pytest.fixture(scope="module")
def stage1():
    return comparison.load(GOLDEN / "clat_stage1_a.npz")


@pytest.fixture(scope="module")
def stage2():
    return comparison.load(GOLDEN / "clat_stage2_a.npz")


@pytest.mark.parametrize(
    ("name", "count"),
    [("stage1", 64), pytest.param("stage2", 155, marks=pytest.mark.slow)],
)
def test_the_recording_replays(request, name, count):
    z = request.getfixturevalue(name)
    assert clat.recognizes(z)
    rows = clat.replay(z)
    failed = [row for row in rows if not row.ok]
    assert not failed, comparison.table(name, failed)
    assert len(rows) == count


def test_other_recordings_are_refused(stage1, stage2):
    assert not clat.recognizes({"cfg/nhid": np.array(3)})
    with pytest.raises(ValueError, match="neither stage"):
        clat.replay({"cfg/nhid": np.array(3)})
    for z in (stage1, stage2):
        with pytest.raises(ValueError, match="has dropout"):
            clat.replay(dict(z) | {"cfg/dropout": np.array(0.1)})
    with pytest.raises(ValueError, match="kd_temperature"):
        clat_stage2.settings_of(dict(stage2) | {"cfg/kd_temperature": np.array(4)})


def test_names_of_tensors_survive_the_way_there_and_back(stage1):
    prefix, table = "init/", clat_names.MULTIMODAL
    named = clat_names.named_parameters(
        clat_names.parameters(stage1, prefix, table), table
    )
    named |= clat_names.named_statistics(
        clat_names.statistics(stage1, prefix, table), table
    )
    recorded = {k[len(prefix) :] for k in stage1 if k.startswith(prefix)}
    constants = tuple(clat_names.CONSTANTS)
    assert set(named) == {k for k in recorded if not k.endswith(constants)}
    for name, value in named.items():
        np.testing.assert_array_equal(value, stage1[prefix + name])
    for name in recorded - set(named):
        value = clat_names.CONSTANTS[name.rsplit(".", 1)[-1]]
        assert stage1[prefix + name] == value


# Stage 1: samples whose masked superpixel or omics change, of three steps.


def _masks(z, *, change=lambda a: a, area=True, absent_zero=True):
    """Samples whose superpixel, and samples whose omics, differ from the recording."""
    superpixels = omics = 0
    for t in range(int(z["cfg/steps"])):
        prefix = f"mask{t}/"
        labels = jnp.asarray(z[f"batch{t}/superpixels"])
        scores = masks.superpixel_scores(
            jnp.asarray(z[f"{prefix}grad_image"]).transpose(0, 2, 3, 1),
            labels,
            capacity=z[f"{prefix}score"].shape[1],
            absent_zero=absent_zero,
        )
        scores = scores if area else scores * (z[f"{prefix}area"] + 1e-9)
        ours = masks.superpixel_mask(change(scores), labels, count=1)
        superpixels += int((ours != z[f"{prefix}path_mask"]).any((1, 2)).sum())
        ours = masks.omic_mask(change(jnp.asarray(z[f"{prefix}grad_omic"])), count=5)
        omics += int((ours != z[f"{prefix}omic_mask"]).any(1).sum())
    return superpixels, omics


@pytest.mark.slow
def test_wrong_readings_of_the_masks_are_seen(stage1):
    assert _masks(stage1) == (0, 0)
    assert _masks(stage1, change=jnp.abs) == (8, 17)
    assert _masks(stage1, area=False) == (6, 0)
    assert _masks(stage1, absent_zero=False) == (1, 0)


def _ema_in_evaluation_mode(*args, **options):
    return teacher_step(*args, **options | {"ema_train": False})


def _divergence_turned_around(*, student, teacher):
    return divergence(student=teacher, teacher=student)


teacher_step, divergence = clat_teacher.teacher_step, losses.divergence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "wrong", "quantity"),
    [
        (clat_stage1, "L1_CONSTANT", 0.0, "step 0 reg_l1"),
        (clat_teacher, "teacher_step", _ema_in_evaluation_mode, "step 0 ema"),
        (losses, "divergence", _divergence_turned_around, "step 0 kl_fuse"),
    ],
)
def test_wrong_readings_of_a_step_are_seen(
    stage1, monkeypatch, module, name, wrong, quantity
):
    monkeypatch.setattr(module, name, wrong)
    short = dict(stage1) | {
        "cfg/steps": np.array(1),
        "steps/lr": stage1["steps/lr"][:1],
    }
    assert quantity in {row.quantity for row in clat.replay(short) if not row.ok}


# Stage 2: the largest loss of a sample of the contrasts, from recorded arrays.


def _side(out, own, other, *, c, mean=False):
    """One side of the contrast of one sample, by a loop over candidates."""
    del other
    positives = own.shape[0]
    negative = [np.log(c / (x + c + 1e-7)) for x in out[positives:]]
    negative = np.mean(negative) if mean else np.sum(negative)
    terms = [
        w * (np.log(x / (x + c + 1e-7)) + negative)
        for w, x in zip(own, out[:positives], strict=True)
    ]
    return -np.sum(terms) / np.sum(own)


def _contrast(z, side, *, query=True):
    """Relative error of the samples' losses, over both contrasts of step 0."""
    worst = 0.0
    for name in ("fused", "ema"):
        get = {k: z[f"t0/crd_{name}/{k}"].astype(np.float64) for k in CONTRAST}
        student, teacher = get["similarity_student"], get["similarity_teacher"]
        pairs = ((get["out_student"], teacher, student),
                 (get["out_teacher"], student, teacher))  # fmt: skip
        ours = sum(
            np.array([side(*row) for row in zip(*pair, strict=True)]) for pair in pairs
        )
        ours = ours * (get["query_weight"] if query else 1)
        theirs = get["sample_loss"]
        worst = max(worst, float(np.abs(ours - theirs).max() / theirs.max()))
    return worst


CONTRAST = ("out_student", "out_teacher", "similarity_student", "similarity_teacher",
            "query_weight", "sample_loss")  # fmt: skip


def test_wrong_readings_of_the_contrast_are_seen(stage2):
    k, p, n = (int(stage2[f"cfg/{name}"]) for name in ("nce_k", "nce_p", "n_data"))
    c = k / n

    def ours(out, own, other):
        del other
        return losses.neighbor_contrast(jnp.asarray(out, jnp.float32)[None],
                                        jnp.asarray(own, jnp.float32)[None],
                                        rows=n)[0]  # fmt: skip

    assert _contrast(stage2, ours) < 2e-6
    assert _contrast(stage2, functools.partial(_side, c=c)) < 2e-6
    for wrong, least in (
        (lambda out, own, other: _side(out, np.ones(p), other, c=c), 0.062),
        (lambda out, own, other: _side(out, other, own, c=c), 0.037),
        (lambda out, own, other: _side(out, np.eye(p)[0], own, c=c), 0.21),
        (functools.partial(_side, c=c, mean=True), 0.099),
        (functools.partial(_side, c=(p + k) / n), 0.0099),
    ):
        assert _contrast(stage2, wrong) > least
    assert _contrast(stage2, functools.partial(_side, c=c), query=False) > 0.36


def _weights(z, weights):
    """Relative error of the weighted sum of terms at step 0."""
    kd = (np.asarray(weights)[:, :4] * z["t0/terms"].T).sum(1).mean()
    return abs(kd - z["t0/loss_kd"]) / abs(z["t0/loss_kd"])


def test_wrong_readings_of_the_weights_are_seen(stage2):
    g = jnp.asarray(stage2["t0/term_gradients"])
    right = losses.gradient_weights(g, threshold=0.25)
    assert _weights(stage2, right) < 2e-6
    np.testing.assert_array_equal(right, stage2["t0/weights"])
    cosines = losses.cosines(g)
    whole = losses.gradient_weights(g.reshape(5, 1, -1), threshold=0.25)
    for wrong, least in (
        (right - 1, 0.69),  # the own term is not counted
        ((cosines[..., :4] > 0.25).sum(-1), 0.1),  # nor CE
        (losses.gradient_weights(g, threshold=0.2), 0.12),
        (losses.gradient_weights(g, threshold=0.0), 1.0),
        (jnp.maximum(cosines, 0).sum(-1), 0.063),
        (jnp.broadcast_to(whole, right.shape), 0.077),  # one weight a batch
    ):
        assert _weights(stage2, wrong) > least
