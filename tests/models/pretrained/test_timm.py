"""Imported encoders at published sizes against recordings of timm.

tests/golden/timm.npz has every 97th value of the residual streams of timm 1.0.31 in
float32 (tools/record_timm.py). Weights and images are a hash of their names. Every
stream agrees to 1e-5 of its maximum.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fof_jax.models.pretrained import encoder_import, weight_files
from tests.support import encoder_files
from tools import record_timm

GOLDEN = Path(__file__).parents[2] / "golden" / "timm.npz"
FAST = ("Ti/16", "odd")
CASES = [
    case if case in FAST else pytest.param(case, marks=pytest.mark.slow)
    for case in record_timm.CASES
]


def load(case):
    """The recording of a case, and the weights and image that it was computed from."""
    with np.load(GOLDEN) as z:
        prefix = f"{case}/"
        recorded = {n[len(prefix) :]: z[n] for n in z.files if n.startswith(prefix)}
    recorded["image_size"] = tuple(int(side) for side in recorded["image_size"])
    shapes = json.loads(str(recorded["shapes"]))
    tensors, image = record_timm.generate(shapes, recorded["image_size"])
    assert record_timm.checksum(tensors, image) == str(recorded["checksum"]), (
        "the rule of the weights has changed: record again"
    )
    return recorded, tensors, image


@pytest.mark.parametrize("case", CASES)
def test_every_block(tmp_path, case):
    recorded, tensors, image = load(case)
    config = json.loads(str(recorded["config"])) if case != "odd" else None
    path = encoder_files.write(tmp_path, tensors, config)
    # config.json has the image size of the published file, not the recorded one.
    options = (
        {} if case in ("Ti/16", "S/16") else {"image_size": recorded["image_size"]}
    )
    options |= {"heads": 5} if case == "odd" else {}
    got = encoder_import.import_encoder(weight_files.read(path), "timm", **options)
    assert got.variant == (None if case == "odd" else case)
    assert got.image_size == recorded["image_size"]
    assert got.left_out == ("head.bias", "head.weight")[: 2 * ("head.bias" in tensors)]
    streams, tokens = encoder_files.run(got, image.transpose(0, 2, 3, 1))
    assert streams[0].shape == tuple(recorded["shape"])
    for i, (stream, expected, maximum) in enumerate(
        zip([*streams, tokens], recorded["streams"], recorded["max"], strict=True)
    ):
        encoder_files.assert_close(
            stream,
            expected,
            f"after block {i}",
            stride=record_timm.STRIDE,
            scale=maximum,
        )
        assert abs(np.abs(stream).max() / maximum - 1) < encoder_files.TOLERANCE


def test_augreg_equals_timm(tmp_path):
    recorded, tensors, _ = load("Ti/16")
    side = recorded["image_size"]
    renamed = encoder_files.as_augreg(tensors, heads=3)
    path = encoder_files.write(tmp_path / "npz", renamed, format_="npz")
    got = encoder_import.import_encoder(
        weight_files.read(path), "augreg", image_size=side
    )
    path = encoder_files.write(tmp_path / "timm", tensors)
    expected = encoder_import.import_encoder(
        weight_files.read(path), "timm", image_size=side
    )
    assert (got.variant, got.size) == (expected.variant, expected.size)
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)
