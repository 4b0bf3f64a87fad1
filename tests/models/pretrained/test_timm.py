"""timm's own models at real sizes: every block, and AugReg's files of the same weights.

tests/golden/timm.npz holds some values of every residual stream that timm 1.0.31
computed in float32 (tools/record_timm.py). Weights and images are drawn here by NumPy
from the recording's seed. Agreement: 1e-5 of a stream's maximum.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fof_jax.models.pretrained import encoder_import, weight_files
from tests.support import encoder_files
from tools import record_timm

TOLERANCE = 1e-5
GOLDEN = Path(__file__).parents[2] / "golden" / "timm.npz"


def drawn(case):
    """The recording of a case, and the weights and the image that it was made of."""
    with np.load(GOLDEN) as z:
        start = f"{case}/"
        seen = {n[len(start) :]: z[n] for n in z.files if n.startswith(start)}
    seen["image_size"] = tuple(int(side) for side in seen["image_size"])
    shapes = json.loads(str(seen["shapes"]))
    tensors, image = record_timm.draw(shapes, seen["image_size"])
    assert record_timm.checksum(tensors, image) == str(seen["checksum"]), (
        "this NumPy draws other numbers from the seed: record anew"
    )
    return seen, tensors, image


def slow_beyond_ti(cases):
    fast = ("Ti/16", "odd")
    return [c if c in fast else pytest.param(c, marks=pytest.mark.slow) for c in cases]


def options(seen, case):
    """What config.json does not tell: it has the size of the published file."""
    told = case in ("Ti/16", "S/16")
    size = {} if told else {"image_size": seen["image_size"]}
    return size | ({"heads": 5} if case == "odd" else {})


@pytest.mark.parametrize("case", slow_beyond_ti(record_timm.CASES))
def test_every_block(tmp_path, case):
    seen, tensors, image = drawn(case)
    config = json.loads(str(seen["config"])) if case != "odd" else None
    path = encoder_files.write(tmp_path, tensors, config)
    got = encoder_import.encoder(weight_files.read(path), "timm", **options(seen, case))
    assert got.variant == (None if case == "odd" else case)
    assert got.image_size == seen["image_size"]
    assert got.left_out == ("head.bias", "head.weight")[: 2 * ("head.bias" in tensors)]
    streams, finished = encoder_files.run(got, image.transpose(0, 2, 3, 1))
    assert streams[0].shape == tuple(seen["shape"])
    assert len(streams) + 1 == len(seen["streams"])
    for i, ours in enumerate([*streams, finished]):
        some = np.asarray(ours).ravel()[:: record_timm.STRIDE]
        error = np.abs(some - seen["streams"][i]).max() / seen["max"][i]
        assert error < TOLERANCE, f"after block {i}: {error:.1e} of the maximum"
        assert abs(np.abs(ours).max() / seen["max"][i] - 1) < TOLERANCE


def test_a_pth_holds_the_same(tmp_path):
    pytest.importorskip("torch", reason="writes the .pth (extra convert)")
    seen, tensors, _ = drawn("Ti/16")
    config = json.loads(str(seen["config"]))
    got = [
        encoder_import.encoder(
            weight_files.read(
                encoder_files.write(tmp_path / form, tensors, config, form)
            ),
            "timm",
        )
        for form in ("safetensors", "pth")
    ]
    jax.tree.map(np.testing.assert_array_equal, got[0].params, got[1].params)


@pytest.mark.parametrize("case", slow_beyond_ti(["Ti/16", "S/16", "odd"]))
def test_augreg_is_timm_in_other_names(tmp_path, case):
    seen, tensors, _ = drawn(case)
    heads = {"Ti/16": 3, "S/16": 6, "odd": 5}[case]
    theirs = encoder_files.as_augreg(tensors, heads)
    path = encoder_files.write(tmp_path / "npz", theirs, form="npz")
    got = encoder_import.encoder(
        weight_files.read(path), "augreg", image_size=seen["image_size"]
    )
    path = encoder_files.write(tmp_path / "timm", tensors)
    want = encoder_import.encoder(
        weight_files.read(path), "timm", image_size=seen["image_size"], heads=heads
    )
    assert (got.variant, got.size) == (want.variant, want.size)
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
