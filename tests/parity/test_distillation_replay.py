"""The distillation recordings, and mistakes that their description lists.

Tolerances are those of the replay (parity/rows/distillation_tolerances.py), which the
description of the recordings proposes. Every mistake below has to break the quantity
that it names; a recording of a real training step shows those that act over steps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import (
    combine,
    crd,
    dc,
    dgkd,
    dgkd_network,
    ema,
    heads,
    hkd,
    memory,
    student_network,
)
from fof_jax.methods.distill.normalize import unit
from fof_jax.parity import comparison
from fof_jax.parity.rows import distillation, distillation_banks, distillation_units
from fof_jax.training import published_optimizers

GOLDEN = Path(__file__).parents[1] / "golden" / "methods"
RECORDINGS = {
    "distill_units_small": ("units", 58),
    "kd_rows_small": ("rows", 58),
    "sckd_sample_a": ("sckd sample", 8),
    "dgkd_teacher_small": ("dgkd teacher", 10),
    "dgkd_student_small": ("dgkd student", 30),
}


def load(name):
    return comparison.load(GOLDEN / f"{name}.npz")


def failed(rows):
    return {row.quantity for row in rows if not row.ok}


@pytest.fixture(autouse=True)
def _traced_anew():
    yield
    distillation_banks._gradient.clear_cache()
    distillation_banks._difference.clear_cache()
    distillation_units._gradient.clear_cache()


# The losses are also compared with loops, in tests/methods/distill; the frame of a
# student of DGKD is that of the other rows, and its teacher a fusion like those that
# replay by default.
COVERED = ("distill_units_small", "dgkd_student_small", "dgkd_teacher_small")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in COVERED)) for n in RECORDINGS],
)
def test_the_recording_replays(name):
    kind, count = RECORDINGS[name]
    recording = load(name)
    assert distillation.kind(recording) == kind
    rows = distillation.replay(recording)
    assert not failed(rows), comparison.table(name, rows)
    assert len(rows) == count


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="no distillation format"):
        distillation.replay({"a": np.zeros(1)})


def test_a_changed_recording_fails():
    recording = banks_of("hkd")
    recording["hkd/step1/after/memory_l"] = recording["hkd/step1/after/memory_l"] + 1e-4
    assert failed(distillation_banks.replay(recording)) == {"hkd banks"}


def banks_of(case):
    recording = load("distill_units_small")
    return {k: v for k, v in recording.items() if k.startswith(f"{case}/")}


def _swapped_bank_negatives(**kwargs):
    banks = kwargs["banks"]
    crossed = {"student": banks["teacher"], "teacher": banks["student"]}
    first, second = (
        hkd.info_nce(
            anchor=kwargs[own],
            positive=memory.look_up(banks[other], kwargs["row"]),
            bank=crossed[own],
            idx=kwargs["idx"],
            tau=kwargs["tau"],
        )
        for own, other in (("student", "teacher"), ("teacher", "student"))
    )
    return first + second


def _z_at_every_call(*, unset, scores, rows):
    del unset
    return jax.lax.stop_gradient(scores.mean() * rows)


def _z_with_gradient(*, unset, scores, rows):
    return jnp.where(unset > 0, unset, scores.mean() * rows)


def _not_normalized(*, bank, row, anchor, momentum):
    new = momentum * bank[row] + (1 - momentum) * anchor
    return bank.at[row].set(jax.lax.stop_gradient(new))


def _momentum_exchanged(*, bank, row, anchor, momentum):
    new = unit((1 - momentum) * bank[row] + momentum * anchor)
    return bank.at[row].set(jax.lax.stop_gradient(new))


def _sum_of_positives(*, positive, negative, rows):
    mean = contrast(positive=positive, negative=negative, rows=rows)
    c = negative.shape[1] / rows + crd.EPSILON
    hits = -jnp.log(positive / (positive + c))
    return mean + hits.sum(axis=1) - hits.mean(axis=1)


def _own_row_not_first(*, difference, ranks, fresh=None):
    del fresh
    order = jnp.argsort(-difference, axis=1)
    return order[:, ranks]


def _raw_relation(*, student, teacher, banks, idx, swapped):
    s, t = (
        memory.similarity(anchor=e, bank=banks[name], idx=idx)
        for name, e in (("student", student), ("teacher", teacher))
    )
    return jax.lax.stop_gradient(s - t if swapped else t - s)


def _swapped_roles(*, swapped, **kwargs):
    return difference(swapped=not swapped, **kwargs)


def _neighbors_of_logits(logits):
    u = unit(logits)
    nearest = jax.lax.top_k(u @ u.T, hkd.NEIGHBORS)[1]
    return (nearest[:, :, None] == jnp.arange(len(logits))[None, None]).any(axis=1)


def _neighbors_without_self(logits):
    p = unit(jax.nn.softmax(logits))
    far = p @ p.T - 2 * jnp.eye(len(logits))
    nearest = jax.lax.top_k(far, hkd.NEIGHBORS)[1]
    return (nearest[:, :, None] == jnp.arange(len(logits))[None, None]).any(axis=1)


def _graph_sum(params, e, adjacent):
    return unit(heads.linear(params, jnp.concatenate([e, adjacent @ e], axis=1)))


contrast, difference = crd.contrast, dc.relation_difference

BANK_MISTAKES = [
    ("hkd", hkd, "individual", _swapped_bank_negatives, "loss"),
    ("hkd_B5_nograph", hkd, "individual", _swapped_bank_negatives, "loss"),
    ("hkd", hkd, "neighbors", _neighbors_of_logits, "graph"),
    ("hkd", hkd, "neighbors", _neighbors_without_self, "graph"),
    ("hkd", hkd, "graph_embedding", _graph_sum, "loss"),
    ("hkd", hkd, "SMOOTHING", 0.5, "loss"),
    ("hkd", memory, "moved", _momentum_exchanged, "banks"),
    ("crd_xm2lr_v3", memory, "normalizer", _z_at_every_call, "Z"),
    ("crd_xm2lr_v3", memory, "normalizer", _z_with_gradient, "gradients"),
    ("crd_xm2lr_v3", memory, "moved", _not_normalized, "banks"),
    ("dc_x22_hard", crd, "contrast", _sum_of_positives, "loss"),
    ("dc_x22_hard", dc, "positions_of_positives", _own_row_not_first, "loss"),
    ("dc_x22_hard", dc, "relation_difference", _swapped_roles, "ranking"),
    ("dc_x22_noswap_hard", dc, "relation_difference", _swapped_roles, "ranking"),
    ("dc_x22_hard", dc, "relation_difference", _raw_relation, "ranking"),
]


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize(("case", "module", "name", "wrong", "quantity"), BANK_MISTAKES)
def test_a_mistake_in_a_bank_loss_is_seen(
    monkeypatch, case, module, name, wrong, quantity
):
    distillation_banks._gradient.clear_cache()
    distillation_banks._difference.clear_cache()
    monkeypatch.setattr(module, name, wrong)
    assert f"{case} {quantity}" in failed(distillation_banks.replay(banks_of(case)))


def _without_cross_entropy(gradients, *, scaled):
    total = combine.cosines(gradients)[:, :-1].sum(axis=1)
    return total * (len(gradients) - 1) if scaled else total


def _always_four(gradients, *, scaled):
    total = combine.cosines(gradients).sum(axis=1)
    return total * 4 if scaled else total


def _never_reset(old, new, *, momentum):
    return momentum * old + (1 - momentum) * new


def _others_alone(gradients, *, threshold):
    return agreement_counts(gradients, threshold=threshold) - 1


def _whole_batch(gradients):
    keep = combine.agrees_batch(gradients)
    return jnp.broadcast_to(keep[None], (gradients.shape[1], len(keep)))


def _any_sign(gradients):
    return combine.cosines(gradients)[:-1, -1] >= 0


agreement_counts = combine.agreement_counts


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize(
    ("name", "wrong", "quantity"),
    [
        ("cosine_sums", _without_cross_entropy, "rule x22"),
        ("cosine_sums", _always_four, "rule x22"),
        ("running", _never_reset, "rule xm2lr running"),
        ("agreement_counts", _others_alone, "rule xm2lr running"),
        ("agrees_sample", _whole_batch, "rule sckd sample"),
        ("agrees_batch", _any_sign, "rule sckd batch"),
    ],
)
def test_a_mistake_in_a_weighting_rule_is_seen(monkeypatch, name, wrong, quantity):
    monkeypatch.setattr(combine, name, wrong)
    recording = load("distill_units_small")
    rules = {k: v for k, v in recording.items() if k.startswith("rules/")}
    assert quantity in failed(distillation_units.replay(rules))


def rows_of(*names):
    """The recording of rows, without the others."""
    recording = load("kd_rows_small")
    others = {k.split("/")[0] for k in recording if "/cfg/" in k} - {*names, "kl"}
    return {k: v for k, v in recording.items() if k.split("/")[0] not in others}


def _ramp_from_zero(monkeypatch):
    call = crd.CRD.__call__

    def wrong(self, params, state, inputs):
        return call(self, params, state, inputs._replace(epoch=inputs.epoch - 1))

    monkeypatch.setattr(crd.CRD, "__call__", wrong)


def _all_terms_kept(monkeypatch):
    monkeypatch.setattr(combine, "agrees_batch", lambda g: jnp.ones(len(g) - 1, bool))


def _counts_of_this_step(monkeypatch):
    monkeypatch.setattr(combine, "running", lambda old, new, momentum: new)


def _average_in_evaluation(monkeypatch):
    encode = student_network.StudentNetwork.encode

    def wrong(self, params, statistics, image, key):
        average = "heads" not in params and key is not None
        return encode(self, params, statistics, image, None if average else key)

    monkeypatch.setattr(student_network.StudentNetwork, "encode", wrong)


def _teacher_in_evaluation(monkeypatch):
    def wrong(self, variables, batch, gather, key):
        return self.apply(variables, batch), variables.state

    monkeypatch.setattr(dgkd.DGKD, "apply_train", wrong)


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize(
    ("row", "mistake", "quantity"),
    [
        ("crd", _ramp_from_zero, "crd losses"),
        ("sckd_batch", _all_terms_kept, "sckd_batch total"),
        ("gkm_xm2lr", _counts_of_this_step, "gkm_xm2lr weights"),
        ("gkm_xm2lr", _average_in_evaluation, "gkm_xm2lr losses"),
        ("kl", _teacher_in_evaluation, "kl teacher outputs"),
    ],
)
def test_a_mistake_in_a_student_is_seen(monkeypatch, row, mistake, quantity):
    mistake(monkeypatch)
    assert quantity in failed(distillation.replay(rows_of(row)))


def _biased_variance(monkeypatch):
    forward = dgkd_network.forward_train

    def wrong(network, params, statistics, image, *others):
        out, new = forward(network, params, statistics, image, *others)
        n = len(image)

        def biased(path, old, after):
            if path[-1].key != "var":
                return after
            return 0.9 * old + (after - 0.9 * old) * (n - 1) / n

        return out, jax.tree_util.tree_map_with_path(biased, statistics, new)

    monkeypatch.setattr(dgkd_network, "forward_train", wrong)


def _decoupled(monkeypatch):
    adam = published_optimizers.adam_l2

    def wrong(*, weight_decay, **options):
        del weight_decay
        return adam(weight_decay=0.0, **options)

    monkeypatch.setattr(published_optimizers, "adam_l2", wrong)


def _penalty_without_biases(monkeypatch):
    def wrong(params):
        leaves = jax.tree.leaves(params[dgkd_network.OMICS])
        return sum(jnp.abs(leaf).sum() for leaf in leaves if leaf.ndim > 1)

    monkeypatch.setattr(dgkd_network, "omics_l1", wrong)


def _average_copies_statistics(monkeypatch):
    update = dgkd.DGKD.update_state

    def wrong(self, variables, step):
        state = update(self, variables, step)
        copied = {"batch_stats": state["batch_stats"]}
        return state | {"average": state["average"] | copied}

    monkeypatch.setattr(dgkd.DGKD, "update_state", wrong)


def _average_without_start(monkeypatch):
    monkeypatch.setattr(ema, "alpha", lambda step, decay: jnp.asarray(decay))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "quantity"),
    [
        (_biased_variance, "model statistics"),
        (_decoupled, "model parameters"),
        (_penalty_without_biases, "losses"),
        (_average_copies_statistics, "ema statistics"),
        (_average_without_start, "ema parameters"),
    ],
)
def test_a_mistake_in_the_mean_teacher_is_seen(monkeypatch, mistake, quantity):
    mistake(monkeypatch)
    assert quantity in failed(distillation.replay(load("dgkd_teacher_small")))


@pytest.mark.slow  # of the recording's power, not of the code
def test_the_average_starts_from_its_own_draw_in_the_recording():
    recording = load("dgkd_teacher_small")
    model = recording["init/model/classifier.0.weight"]
    assert np.abs(model - recording["init/ema/classifier.0.weight"]).max() > 1e-2
    recording |= {
        f"init/ema/{k.removeprefix('init/model/')}": v
        for k, v in recording.items()
        if k.startswith("init/model/")
    }
    assert "losses" in failed(distillation.replay(recording))
