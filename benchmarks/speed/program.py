"""The training step on random images, and its analytic FLOP count."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.configs import gbmlgg
from fof_jax.models import vit
from fof_jax.training import parallel
from fof_jax.training import state as training_state
from fof_jax.training.build import build
from fof_jax.types import Batch, DatasetInfo


def config(**fields: Any) -> ConfigDict:
    """The paper's config on one device, with changed fields.

    Args:
      fields: values by field name, `data_image_size` for data.image_size.
    """
    made = gbmlgg.get_config()
    made.devices = 1
    for name, value in fields.items():
        holder = made
        section, _, rest = name.partition("_")
        if name not in made and section in made:
            holder, name = made[section], rest
        holder[name] = value
    return made


def info(config: ConfigDict) -> DatasetInfo:
    """Names of the data, without float markers."""
    return DatasetInfo(
        classes=tuple(config.data.classes),
        biomarkers=tuple(config.data.biomarkers),
        float_markers=(),
    )


def batch(config: ConfigDict, seed: int = 0) -> Batch:
    """Random images and labels, in the loader's format."""
    rng = np.random.default_rng(seed)
    rows, side = config.batch_size, config.data.image_size
    n = len(config.data.biomarkers)
    return Batch(
        image=rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        grade=rng.integers(0, len(config.data.classes), rows).astype(np.int32),
        biomarkers=rng.integers(0, 2, (rows, n)).astype(np.int32),
        known=np.ones((rows, n), bool),
        floats=np.zeros((rows, 0), np.float32),
        index=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )


@dataclasses.dataclass
class Step:
    """A compiled step with its state and batch.

    Attributes:
      compiled: the executable.
      state: training state, replaced by each call.
      batch: one sharded batch.
      compile_s: seconds for tracing and compilation.
    """

    compiled: Any
    state: training_state.TrainState
    batch: Batch
    compile_s: float

    def __call__(self) -> dict[str, jax.Array]:
        """Runs one step and returns its metrics."""
        self.state, metrics = self.compiled(
            self.state,
            self.batch,
            training_state.Schedule(learning_rate=np.float32(1e-4)),
            {},
        )
        return metrics


def compile_step(config: ConfigDict) -> Step:
    """Compiles the training step of a config and initializes a state for it."""
    setup = build(config, info(config))
    local = batch(config)
    state = training_state.initial_state(
        setup.method, setup.optimizer, jax.random.key(0), local
    )
    sharded = parallel.to_devices(local, len(setup.devices))
    start = time.perf_counter()
    compiled = setup.train_step.compiled(
        state, sharded, training_state.Schedule(learning_rate=np.float32(0)), {}
    )
    return Step(compiled, state, sharded, time.perf_counter() - start)


def account(
    size: vit.Size, patch: int, side: int, *, remat: str = "attention"
) -> dict[str, float]:
    """Analytic FLOPs of matrix products, for one image of `side` x `side` pixels.

    Args:
      size: dimensions of the encoder.
      patch: patch size in pixels.
      side: image size in pixels.
      remat: remat policy; chunked attention is assumed.

    Returns:
      `forward`: encoder forward pass; `step`: the paper's step without recomputation;
      `recomputed`: recomputation by the policy and by the backward pass of attention.
    """
    tokens = (side // patch) ** 2
    product = 2 * tokens**2 * size.width  # q k^T or p v, all heads
    square = 2 * tokens * size.width**2  # a dense layer D to D
    wide = 2 * tokens * size.width * size.mlp
    block = 2 * product + 4 * square + 2 * wide
    embed = 2 * tokens * 3 * patch**2 * size.width
    forward = size.depth * block + embed
    # Three views, each forward and backward (twice forward); no gradient of pixels.
    # The backward pass of the CAM is through one block, to its tokens only: four
    # products of attention, and each dense layer once.
    step = 3 * (3 * forward - embed) + block + 2 * product
    again = {
        "none": 0.0,
        "attention": wide + square,  # x after attention, and the MLP's hidden layer
        "output": wide + 4 * square,  # and q, k, v
        "block": 2 * product + 4 * square + wide,  # all but the second layer of the MLP
    }[remat]
    scores = product  # the probabilities are never stored
    blocks = 3 * size.depth
    return {
        "forward": forward,
        "step": step,
        "recomputed": blocks * (again + scores) + scores,
    }
