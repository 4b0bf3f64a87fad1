"""The functions that train.py calls are lowered for cuda and tpu, on this machine.

Nothing runs: the module's text is searched for what has to be in it. cuDNN's attention
does not lower where cuDNN is missing, so bf16 for cuda is lowered with `chunked` here.
"""

import jax
import numpy as np
import pytest

from benchmarks.speed import program as bench
from fof_jax.models import attention
from fof_jax.training import parallel
from fof_jax.training import state as training_state
from fof_jax.training.build import build

ALL = [(p, d) for p in ("cuda", "tpu") for d in ("float32", "bfloat16")]


def modules(platform, dtype, side, encoder):
    """StableHLO of the training step and of the evaluation step, two devices."""
    path = attention.select_implementation(platform, dtype, 64)
    config = bench.config(
        data_image_size=side,
        batch_size=2,
        encoder=encoder,
        devices=2,
        compute_dtype=dtype,
        attention="chunked" if path == "cudnn" else path,
    )
    made = build(config, bench.info(config))
    batch = bench.batch(config)
    state = jax.eval_shape(
        lambda: training_state.initial_state(
            made.method, made.optimizer, jax.random.key(0), batch
        )
    )
    cut = parallel.to_devices(batch, 2)
    train = jax.export.export(jax.jit(made.train_step._mapped), platforms=[platform])
    test = jax.export.export(jax.jit(made.predict_step), platforms=[platform])
    schedule = training_state.Schedule(
        learning_rate=np.float32(1e-4), progress=np.float32(0)
    )
    return (
        train(state, cut, schedule, {}).mlir_module(),
        test(state.variables({}), cut).mlir_module(),
    )


def check(platform, dtype, side, encoder):
    train, test = modules(platform, dtype, side, encoder)
    assert "all_gather" in train
    assert "all_reduce" in train
    assert "all_gather" in test
    for text in (train, test):
        assert ("tpu_custom_call" in text) == (platform == "tpu")
        assert ("bf16" in text) == (dtype == "bfloat16")


@pytest.mark.parametrize(
    ("platform", "dtype"),
    [
        pytest.param(*one, marks=pytest.mark.slow if i else ())
        for i, one in enumerate(ALL)
    ],
)
def test_small(platform, dtype):
    check(platform, dtype, 128, "mu/8")


# A step of full size is traced in 10 s; float32 has the same tiles in `test_small`.
@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_full_size(platform):
    check(platform, "bfloat16", 1024, "Ti/16")
