"""The benchmarks' own arithmetic, and that each command ends with its JSON line.

FLOPs are compared with products counted by hand, which are exact.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks.speed import (
    attention,
    convolution,
    encoder,
    parts,
    program,
    race,
    scaling,
    step,
)
from benchmarks.speed import input as input_side
from fof_jax.models import vit
from fof_jax.training import flops


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_products_are_counted_once_each_run_of_a_loop():
    text = compiled(lambda a, b: a @ b, (8, 16), (16, 4))
    assert flops.count(text) == 2 * 8 * 16 * 4

    def nested(a, b):
        def inner(x, _):
            return jnp.tanh(x @ b), None

        def outer(x, _):
            return lax.scan(inner, x, None, length=5)[0], None

        return lax.scan(outer, a, None, length=7)[0]

    assert flops.count(compiled(nested, (8, 16), (16, 16))) == 35 * 2 * 8 * 16 * 16


def test_batched_products_and_text_that_is_no_program():
    text = compiled(
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (3, 8, 16), (3, 4, 16)
    )
    assert flops.count(text) == 2 * 3 * 8 * 16 * 4
    with pytest.raises(ValueError, match="no ENTRY"):
        flops.count("HloModule nothing")


def test_convolutions_are_counted_with_their_groups():
    def convolve(x, kernel, groups):
        return lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    for groups in (1, 4):
        text = compiled(
            lambda x, k, g=groups: convolve(x, k, g),
            (2, 16, 16, 8),
            (3, 3, 8 // groups, 12),
        )
        # 2 x 8 x 8 x 12 outputs, each of 3 x 3 x 8 / groups products.
        assert flops.count(text) == 2 * (2 * 8 * 8 * 12) * (3 * 3 * 8 // groups)


def test_a_loop_without_a_known_end_is_refused():
    def until(a):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, a)

    with pytest.raises(ValueError, match="no known trip count"):
        flops.count(compiled(until, (4, 4)))


def test_analytic_flops_of_vit_ti():
    account = program.account(*vit.parse_variant("Ti/16"), 1024)
    assert account["forward"] == pytest.approx(0.20e12, rel=0.01)
    assert account["step"] / account["forward"] == pytest.approx(9.2, rel=0.01)


def test_exponents():
    x = [1, 2, 4]
    assert scaling.exponent(x, [3 * a**2 for a in x]) == pytest.approx(2)


def test_race_returns_times():
    shape = (1, 2, 32, 8)
    arrays = [np.ones(shape, np.float32) for _ in range(4)]
    figures = race.race({"chunked": attention.fof_jax_pair("chunked", arrays)}, 1)
    assert set(figures) == {"chunked"}
    assert all(value >= 0 for value in figures["chunked"].values())


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow  # compiles a training step: 5 to 10 s
def test_step_is_measured(capsys):
    step.main(["--image=16", "--batch=2", "--reps=1", "--encoder=mu/8"])
    result = last_line(capsys)
    for name in ("wall_s", "cpu_s", "peak_gib", "compile_s", "flops", "temp_bytes"):
        assert result[name] > 0, name


@pytest.mark.slow  # as above
def test_step_time_is_split_by_part(capsys):
    parts.main(["--image=32", "--batch=2", "--steps=1", "--encoder=mu/8"])
    result = last_line(capsys)
    named = {name for name, _ in parts.PARTS} | {parts.OTHER}
    assert set(result["share"]) <= named
    assert {"augmentation", "dense layers", "optimizer"} <= set(result["share"])
    assert sum(result["share"].values()) == pytest.approx(1, abs=1e-2)


def test_loops_are_left_out_of_the_parts():
    text = compiled(
        lambda a, b: lax.scan(lambda x, _: (x @ b, None), a, None, length=7)[0],
        (8, 16),
        (16, 16),
    )
    known = parts.scopes(text)
    assert any("dot" in scope for scope in known.values())
    assert not any(name.startswith("while") for name in known)


def test_the_encoder_is_measured(capsys):
    encoder.main(["--image=16", "--reps=1", "--encoder=mu/8"])
    result = last_line(capsys)
    assert result["both_ms"] > 0


@pytest.mark.slow  # compiles sixteen convolutions
def test_convolutions_are_measured(capsys):
    convolution.main(["--batch=1", "--reps=1"])
    layers = last_line(capsys)["layers"]
    assert len(layers) == len(convolution.LAYERS)
    assert all(set(one) == {"ours", "xla"} for one in layers.values())


@pytest.mark.slow  # a process that imports everything
def test_growth_is_of_the_run_and_not_of_the_compiler():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the high-water mark of memory is set back through Linux's /proc")
    # q, k, v, dq, dk, dv, o, and a tile of scores: 4096 x 256 floats are 4 MB
    assert 5 < attention.growth_mb(4096, 1, 64) < 60


def test_the_input_side_is_measured(capsys):
    input_side.main(["--image=32", "--images=6", "--batch=2", "--step-ms=1"])
    result = last_line(capsys)
    assert result["decoded_images_per_s"] > 0
    assert result["cached_images_per_s"] > 0
    assert 0 <= result["input_wait_share"] < 1
