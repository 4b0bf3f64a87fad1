"""Recordings of the omics and fusion rows replay; deliberate mistakes do not.

The tolerances are those of `parity.rows.fusion_compare` and `parity.rows.fusion_steps`.
The recordings hold one to three cases of the formats of methods/fusion.md.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from fof_jax.methods.fusion import (
    ddmnet,
    ddmnet_losses,
    foaa,
    gpdbn,
    hfbsurv,
    network,
    pathomic,
    scnn,
)
from fof_jax.models import dropout, omics
from fof_jax.parity import comparison
from fof_jax.parity.rows import (
    fusion,
    fusion_compare,
    fusion_modules,
    fusion_trainer,
    torch_layout,
)
from fof_jax.training import published_optimizers

GOLDEN = Path(__file__).parents[1] / "golden" / "methods"
NAMES = (
    "maxnet",
    "pofusion_pf",
    "pofusion_x22",
    "gpdbn",
    "hfb",
    "foaa",
    "scnn",
    "ddm",
    "steps_pathomic",
    "steps_x22",
)


def recording(name):
    return comparison.load(GOLDEN / f"{name}_small.npz")


def one_case(name, case, steps=None):
    """The training mode of one case, or its first steps."""
    found = {
        key: value
        for key, value in recording(name).items()
        if key.startswith(f"{case}/") and not key.startswith(f"{case}/eval/")
    }
    if steps is not None:
        found[f"{case}/cfg/steps"] = np.array(steps)
    return found


def failures(found):
    return {row.quantity.split(" ", 1)[1] for row in fusion.replay(found) if not row.ok}


# The modules and the steps of two others, in other sizes; and two of which
# tests/methods/test_fusion.py computes the products by hand, and which compile longest.
COVERED = ("pofusion_x22", "steps_x22", "hfb", "foaa")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in COVERED)) for n in NAMES],
)
def test_recording_replays(name):
    found = recording(name)
    assert fusion.kind(found) == ("steps" if "steps" in name else "modules")
    rows = fusion.replay(found)
    assert all(row.ok for row in rows), comparison.table(name, rows)


def test_parameters_by_rule():
    # Against a loop over Python integers.
    def number(i, k):
        x = (i + k * 0x9E3779B9) % 2**32
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return (x ^ (x >> 16)) / 2**32

    found = torch_layout.by_rule(7, 0.2, 1.0, (3, 5))
    expected = [1 + 0.2 * (2 * number(i, 7) - 1) for i in range(15)]
    np.testing.assert_array_equal(found.ravel(), np.float32(expected))


def test_other_formats_are_not_claimed():
    assert fusion.kind({"cfg/depth": np.array(3)}) is None
    with pytest.raises(ValueError, match="of no known fusion format"):
        fusion.replay({"a/cfg/depth": np.array(3)})
    with pytest.raises(ValueError, match=r"unknown layer.*Expected layers a"):
        torch_layout.place("b.weight", {"a": ("a",)})


def test_a_missing_mask_is_an_error():
    found = one_case("maxnet", "d")
    del found["d/train/mask/encoder.1.2#0"]
    with pytest.raises(ValueError, match="no recorded mask for dropout_1"):
        fusion.replay(found)


class BiasedBatchNorm(nn.Module):
    """Moves the running variance towards the biased one, as flax.linen does."""

    @nn.compact
    def __call__(self, x, *, train):
        shape = x.shape[-1:]
        params = {
            "scale": self.param("scale", nn.initializers.ones, shape),
            "bias": self.param("bias", nn.initializers.zeros, shape),
        }
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        m, v = (x.mean(0), x.var(0)) if train else (mean.value, var.value)
        if train and not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * m
            var.value = 0.9 * var.value + 0.1 * v
        y = (x - m[None]) / jnp.sqrt(v[None] + 1e-5)
        return y * params["scale"][None] + params["bias"][None]


def no_shift(self, x, *, train):
    """AlphaDropout that zeroes entries like Dropout."""
    if not train:
        return x
    return jnp.where(self.sample_mask(x.shape), x / (1 - self.rate), 0)


def unscaled(self, x, *, train):
    """Dropout that does not divide by the kept fraction."""
    return jnp.where(self.sample_mask(x.shape), x, 0) if train else x


def no_product_dropout(self, x, *, train, original=dropout.Dropout.__call__):
    """Every dropout but that of the Kronecker product."""
    if self.name == "dropout_kronecker":
        return x
    return original(self, x, train=train)


def one_before_dropout(self, x, *, train, original=dropout.Dropout.__call__):
    """A hidden layer that drops after the classifier's input was taken."""
    if self.name == "dropout_hidden_2":
        return x
    return original(self, x, train=train)


def transposed_product(self, name, a, b, original=gpdbn.GPDBNFusion._bilinear):
    """The outer product in column-major order."""
    return original(self, name, b, a)


def interleaved(*, product, rank, original=hfbsurv.factorized_bilinear):
    """Groups of entries that are `rank` apart."""
    x = product.reshape(product.shape[0], rank, -1).swapaxes(1, 2)
    return original(product=x.reshape(product.shape), rank=rank)


def smooth_root(x):
    """Signed square root with an epsilon."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1e-4) - 1e-2)


def unnormalized(*, product, rank):
    """The pooled product without its L2 norm."""
    groups = product.reshape(product.shape[0], -1, rank)
    return hfbsurv.signed_sqrt(groups.sum(axis=2))


def transferred(*, original=ddmnet_losses.all_terms, **terms):
    """Imputation whose target is trained too."""
    losses = original(**terms)
    both = terms["known"].all(axis=1)
    values = sum(
        ((terms["imputed"][m] - terms["latent"][m]) ** 2).mean(axis=1)
        for m in terms["imputed"]
    )
    losses["impute"] = ddmnet_losses.mean_of_rows(values=values, keep=both)
    return losses


def all_rows(*, values, keep):
    """A mean over every row."""
    del keep
    return values.mean()


def uncentered(*, a, b, keep):
    """Inner products of columns that are not centered."""
    rows = keep[:, None].astype(a.dtype)

    def columns(x):
        square = ((x * rows) ** 2).sum(axis=0, keepdims=True)
        return x * rows / jnp.sqrt(square + 1e-12)

    return ((columns(a).T @ columns(b)) ** 2).mean()


def decay_of_everything(*, params, weight):
    """L2 with the classifier's kernel."""
    return weight / 2 * sum((v["kernel"] ** 2).sum() for v in params.values())


def swapped_query(self, query, context, *, train):
    """Attention from the context to the query."""
    return ATTENTION(self, context, query, train=train)


ATTENTION = foaa.ArithmeticAttention.__call__

MODULE_MISTAKES = {
    "maxnet: dropout for AlphaDropout": (
        ("maxnet", "d"),
        (dropout.AlphaDropout, "__call__", no_shift),
        "train outputs",
    ),
    "maxnet: SELU's constant without its scale": (
        ("maxnet", "d"),
        (dropout, "ALPHA", 1.6732632),
        "train outputs",
    ),
    "maxnet: tanh for ELU": (
        ("maxnet", "d"),
        (omics.jax.nn, "elu", jnp.tanh),
        "train outputs",
    ),
    "pathomic: product not dropped": (
        ("pofusion_pf", "a"),
        (dropout.Dropout, "__call__", no_product_dropout),
        "train outputs",
    ),
    "pathomic: fused feature not dropped": (
        ("pofusion_pf", "b"),
        (dropout.Dropout, "__call__", one_before_dropout),
        "train outputs",
    ),
    "pathomic: dropout without rescaling": (
        ("pofusion_pf", "d"),
        (dropout.Dropout, "__call__", unscaled),
        "train outputs",
    ),
    "pathomic: biased running variance": (
        ("pofusion_x22", "a"),
        (pathomic, "BatchNorm", BiasedBatchNorm),
        "train statistics",
    ),
    "concat: biased running variance": (
        ("scnn", "concat_a"),
        (network, "BatchNorm", BiasedBatchNorm),
        "train statistics",
    ),
    "concat: gradient not cut": (
        ("scnn", "concat_b"),
        (network.lax, "stop_gradient", lambda x: x),
        "train gradients",
    ),
    "gpdbn: transposed product": (
        ("gpdbn", "a"),
        (gpdbn.GPDBNFusion, "_bilinear", transposed_product),
        "train outputs",
    ),
    "hfb: interleaved groups": (
        ("hfb", "two_b"),
        (hfbsurv, "factorized_bilinear", interleaved),
        "train outputs",
    ),
    "hfb: epsilon in the root": (
        ("hfb", "two_b"),
        (hfbsurv, "signed_sqrt", smooth_root),
        "train outputs",
    ),
    "hfb: no norm": (
        ("hfb", "two_b"),
        (hfbsurv, "factorized_bilinear", unnormalized),
        "train outputs",
    ),
    "foaa: query and context exchanged": (
        ("foaa", "d"),
        (foaa.ArithmeticAttention, "__call__", swapped_query),
        "train outputs",
    ),
    "foaa: another epsilon": (
        ("foaa", "d"),
        (foaa, "LAYER_NORM_EPS", 1e-3),
        "train outputs",
    ),
    "scnn: classifier decayed": (
        ("scnn", "a"),
        (scnn, "kernel_decay", decay_of_everything),
        "train gradients",
    ),
    "ddm: target of the imputation trained": (
        ("ddm", "a"),
        (ddmnet_losses, "all_terms", transferred),
        "train gradients",
    ),
    "ddm: unknown rows in the means": (
        ("ddm", "a"),
        (ddmnet_losses, "mean_of_rows", all_rows),
        "train losses",
    ),
    "ddm: columns not centered": (
        ("ddm", "a"),
        (ddmnet_losses, "difference", uncentered),
        "train losses",
    ),
    "ddm: another bound of the log-variance": (
        ("ddm", "a"),
        (ddmnet, "LOG_VARIANCE_BOUND", 10.0),
        "train outputs",
    ),
}


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize("mistake", MODULE_MISTAKES)
def test_a_mistake_in_a_module_is_found(mistake, monkeypatch):
    (name, case), (target, attribute, wrong), quantity = MODULE_MISTAKES[mistake]
    monkeypatch.setattr(target, attribute, wrong)
    assert quantity in failures(one_case(name, case))


@pytest.mark.slow  # of the recording's power, not of the code
def test_an_l1_norm_without_biases_is_found(monkeypatch):
    def kernels(params, *, subtree=()):
        del subtree
        return sum(jnp.abs(layer["kernel"]).sum() for layer in params.values())

    monkeypatch.setattr(fusion, "l1_norm", kernels)
    assert failures(one_case("maxnet", "d")) >= {"train losses", "train gradients"}


@pytest.mark.slow  # of the recording's power, not of the code
def test_the_third_modality_of_the_published_class_is_the_first(monkeypatch):
    def corrected(**fields):
        return hfbsurv.HFBFusion(**{**fields, "as_published": False})

    monkeypatch.setattr(fusion_modules, "HFBFusion", corrected)
    found = one_case("hfb", "a")
    found = {k: v for k, v in found.items() if "_path_a" not in k}
    found = {k: v for k, v in found.items() if "_cona_a" not in k}
    assert "train outputs" in failures(found)


def test_the_gradient_of_the_root_at_zero_is_zero(monkeypatch):
    def infinite(x):
        return jnp.sqrt(jnp.maximum(x, 0)) - jnp.sqrt(jnp.maximum(-x, 0))

    monkeypatch.setattr(hfbsurv, "signed_sqrt", infinite)
    found = {k: v for k, v in recording("hfb").items() if k.startswith("mfb/")}
    rows = fusion.replay(found)
    assert {row.quantity for row in rows if not row.ok} == {
        "mfb gradient a",
        "mfb gradient b",
    }


def decoupled(**options):
    """AdamW in place of Adam with L2."""
    decay = options.pop("weight_decay")
    plain = ADAM(**options, weight_decay=0.0)

    def update(updates, state, params, **extra):
        direction, state = plain.update(updates, state, params, **extra)
        return jax.tree.map(lambda d, p: d + decay * p, direction, params), state

    return plain._replace(update=update)


def frozen_by_zeros(**options):
    """Frozen tensors that are decayed and counted like the others."""
    return ADAM(**{**options, "frozen_epochs": {}})


def frozen_an_epoch_longer(**options):
    frozen = options["frozen_epochs"]
    longer = {k: None if v is None else v + 1 for k, v in frozen.items()}
    return ADAM(**{**options, "frozen_epochs": longer})


def early_schedule(epoch, **options):
    return RATE(max(epoch - 1, 0), **options)


def average_from_one(average, params, *, step, decay):
    return AVERAGE(average, params, step=step + 1, decay=decay)


def teacher_trained(teacher, student):
    """KL the other way round."""
    p, q = jax.nn.log_softmax(student), jax.nn.log_softmax(lax.stop_gradient(teacher))
    return (jnp.exp(p) * (p - q)).sum() / p.shape[0]


ADAM = published_optimizers.adam_l2
RATE = published_optimizers.linear_epochs
AVERAGE = published_optimizers.moving_average

STEP_MISTAKES = {
    "AdamW": (("steps_pathomic", 2), "adam_l2", decoupled, "parameters"),
    "decayed frozen tensors": (
        ("steps_pathomic", 2),
        "adam_l2",
        frozen_by_zeros,
        "parameters",
    ),
    "freed an epoch late": (
        ("steps_pathomic", 5),
        "adam_l2",
        frozen_an_epoch_longer,
        "parameters",
    ),
    "schedule an epoch early": (
        ("steps_pathomic", 6),
        "linear_epochs",
        early_schedule,
        "rate",
    ),
    "average that never copies": (
        ("steps_x22", 3),
        "moving_average",
        average_from_one,
        "averages",
    ),
}


@pytest.mark.slow  # of the recording's power, not of the code
@pytest.mark.parametrize("mistake", STEP_MISTAKES)
def test_a_mistake_in_the_optimizer_is_found(mistake, monkeypatch):
    (name, steps), function, wrong, quantity = STEP_MISTAKES[mistake]
    monkeypatch.setattr(published_optimizers, function, wrong)
    case = "b" if name == "steps_x22" else "a"
    assert quantity in failures(one_case(name, case, steps))


@pytest.mark.slow  # of the recording's power, not of the code
def test_a_divergence_in_the_other_direction_is_found(monkeypatch):
    monkeypatch.setattr(fusion_trainer, "_divergence", teacher_trained)
    assert failures(one_case("steps_x22", "b", 1)) >= {"losses", "gradients"}


def test_every_tolerance_is_used_by_a_family():
    suffixes = {key.partition(", ")[2] for key in fusion_compare.TOLERANCES} - {""}
    assert suffixes == {"foaa", "ddm", "hfb", "batch norm"}
