"""The encoder recordings, and mistakes that their description lists.

Tolerances are those of the replay (parity/rows/encoder_tolerances.py). Every mistake
below has to break the quantity that it names. Whole recordings take minutes and are
replayed by the slow tests; the single operations are in the default suite.
"""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from fof_jax.cli import parity as parity_verb
from fof_jax.models import (
    batch_norm,
    convolution,
    dropout,
    resnet,
    swin,
    swin_window,
)
from fof_jax.parity import comparison
from fof_jax.parity.rows import (
    encoder_cases,
    encoder_compare,
    encoder_replay,
    encoder_rule,
    encoder_tolerances,
    encoder_units,
    encoders,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "methods"


def load(name):
    return comparison.load(GOLDEN / f"{name}.npz")


def failed(rows):
    return {row.quantity for row in rows if not row.ok}


@pytest.fixture(scope="module")
def units():
    return load("encoder_units")


@pytest.mark.parametrize("operation", sorted(encoder_units.OPERATIONS))
def test_single_operations_replay(units, operation):
    some = {k: v for k, v in units.items() if k.startswith(f"{operation}/")}
    rows = encoder_units.replay(some)
    assert rows
    assert not failed(rows), comparison.table(operation, rows)


def test_the_verb_finds_the_family(units):
    assert encoders.kind(units) == "units"
    for name, family in (
        ("resnet18_b", "resnet18"), ("vgg19bn_b", "vgg19bn"), ("swinv2_a", "swinv2")
    ):  # fmt: skip
        assert encoders.kind(load(name)) == family
    assert not encoders.recognizes({"cfg/nhid": np.zeros(1)})
    with pytest.raises(ValueError, match="no image encoder, expected cfg/family one"):
        encoders.replay({"a": np.zeros(1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18_b", "vgg19bn_b", "swinv2_a"])
def test_the_recording_replays(name):
    rows = parity_verb.replay(GOLDEN / f"{name}.npz", others=[])
    assert not failed(rows), comparison.table(name, rows)
    deviation = {row.quantity: row.deviation for row in rows}
    if name == "swinv2_a":  # shows a wrong eps of LayerNorm, 2e-5
        assert deviation["eval outputs"] < 5e-6
    assert len(rows) == {"resnet18_b": 20, "vgg19bn_b": 20, "swinv2_a": 18}[name]


def test_the_rule_by_hand():
    """The first value of a name by Python's own integers."""
    mask = 2**64 - 1
    for name, seed in (("a", 0), ("layer1.0.conv1.weight", 88)):
        x = (0x9E3779B97F4A7C15 + zlib.crc32(name.encode()) + (seed << 32)) & mask
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 & mask
        x ^= x >> 27
        x = x * 0x94D049BB133111EB & mask
        x ^= x >> 31
        expected = (2 * (x >> 41) + 1 - 2**23) / 2**23
        assert encoder_rule.uniform(name, (2, 3), seed)[0, 0] == expected


def test_a_recording_is_chaotic_by_its_own_losses():
    z = {"steps/loss64": np.ones(3), "steps/loss": np.array([1, 1, 1 + 1e-5])}
    assert not encoder_compare.is_chaotic(z)
    assert encoder_compare.is_chaotic(z | {"steps/loss": np.array([1, 1, 1 + 1e-4])})
    loose = encoder_tolerances.tolerance("loss", "resnet18", chaotic=True)
    assert loose == 5e-4
    assert encoder_tolerances.tolerance("loss", "resnet18") == 2e-5


# Mistakes in single operations.


def _biased(monkeypatch):
    call = batch_norm.BatchNorm.__call__

    def wrong(self, x, *, train):
        out = call(self, x, train=train)
        if train and not self.is_initializing():
            n = x.size // x.shape[-1]
            var = self.get_variable("batch_stats", "var")
            batch_var = x.reshape(-1, x.shape[-1]).var(axis=0)
            excess = self.momentum * batch_var * (n / (n - 1) - 1)
            self.put_variable("batch_stats", "var", var - excess)
        return out

    monkeypatch.setattr(batch_norm.BatchNorm, "__call__", wrong)


def _same_padding(monkeypatch):
    def wrong(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")

    monkeypatch.setattr(resnet, "max_pool", wrong)


def _smaller_epsilon(monkeypatch):
    monkeypatch.setattr(swin, "LAYER_NORM_EPS", 1e-6)


def _columns_first(monkeypatch):
    def wrong(x):
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return jnp.concatenate(parts, axis=-1)

    monkeypatch.setattr(swin, "quadrants", wrong)


def _key_minus_query(monkeypatch):
    index = swin_window.position_index
    monkeypatch.setattr(swin_window, "position_index", lambda w: index(w).T)


def _divided_by_the_window(monkeypatch):
    table = swin_window.coordinates

    def wrong(window, pretrained_window=0):
        return table(window, (pretrained_window or window) + 1)

    monkeypatch.setattr(swin_window, "coordinates", wrong)


def _no_clamp(monkeypatch):
    monkeypatch.setattr(swin, "_LARGEST_SCALE", 1e9)


@pytest.mark.parametrize(
    ("mistake", "quantity"),
    [
        (_biased, "batch_norm"),
        (_same_padding, "max_pool"),
        (_smaller_epsilon, "swin_merge"),
        (_columns_first, "swin_merge"),
        (_key_minus_query, "swin_attention"),
        (_divided_by_the_window, "swin_window"),
        (_no_clamp, "swin_attention"),
    ],
)
def test_a_mistake_in_an_operation_is_seen(monkeypatch, units, mistake, quantity):
    mistake(monkeypatch)
    some = {k: v for k, v in units.items() if k.startswith(f"{quantity}/")}
    assert failed(encoder_units.replay(some))


# Mistakes in whole recordings.


def _stem_padding(monkeypatch):
    def wrong(x, kernel, stride):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    monkeypatch.setattr(convolution, "convolve", wrong)


def _no_mask(monkeypatch):
    monkeypatch.setattr(swin_window, "MASKED", 0.0)


def _tanh_gelu(monkeypatch):
    monkeypatch.setattr(
        nn, "gelu", lambda x, approximate: jax.nn.gelu(x, approximate=True)
    )


def _frozen_are_decayed(monkeypatch):
    monkeypatch.setattr(
        encoder_cases.optimizers, "without", lambda optimizer, untrained: optimizer
    )


def _dropout_without_scale(monkeypatch):
    def wrong(self, x, *, train):
        if not train:
            return x
        return jnp.where(self.sample_mask(x.shape), x, 0)

    monkeypatch.setattr(dropout.Dropout, "__call__", wrong)


evaluated, trained = encoder_replay.evaluated, encoder_replay.trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "replay", "mistake", "quantity"),
    [
        ("resnet18_b", evaluated, _stem_padding, "eval outputs"),
        ("resnet18_b", trained, _biased, "train statistics"),
        ("vgg19bn_b", trained, _frozen_are_decayed, "after 3 eval logits"),
        ("vgg19bn_b", trained, _dropout_without_scale, "train outputs"),
        ("swinv2_a", evaluated, _no_mask, "eval outputs"),
        ("swinv2_a", evaluated, _tanh_gelu, "eval outputs"),
    ],
)
def test_a_mistake_in_an_encoder_is_seen(monkeypatch, name, replay, mistake, quantity):
    mistake(monkeypatch)
    assert quantity in failed(replay(load(name)))
