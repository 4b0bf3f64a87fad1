"""The first step of a fold, ready to be taken; nothing is trained."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import (
    loader,
    metadata,
    prepare,
    splits,
    store,
    superpixels,
    validation,
)
from fof_jax.data.cache import decoding_threads
from fof_jax.methods import registry
from fof_jax.training import build, cell_graphs, fold_constants
from fof_jax.training.state import TrainState, initial_state
from fof_jax.types import Batch, Params, Variables

# What a batch of noise has; all else comes with the data.
_OF_IMAGES = {"image", "biomarkers", "floats"}


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """What a stage of a fold computes with.

    Attributes:
      setup: of the stage.
      state: initialized.
      frozen: constants of the fold, and earlier stages with random weights.
      batch: of training.
      test_batch: of the test rows; of noise, the same batch.
    """

    setup: build.Setup
    state: TrainState
    frozen: Params
    batch: Batch
    test_batch: Batch


def reads_images_alone(config: ConfigDict) -> bool:
    """Whether noise can stand in for the data of a config: one stage, on images."""
    if config.stages:
        return False
    inputs = registry.create(config, build.config_info(config)).inputs
    return set(inputs.train) <= _OF_IMAGES and not inputs.superpixels


def of_noise(config: ConfigDict) -> FirstStep:
    """On random images, for a method of `reads_images_alone`."""
    setup = build.build(config, build.config_info(config))
    batch = _noise(config)
    state = initial_state(setup.method, setup.optimizer, jax.random.key(0), batch)
    return FirstStep(setup, state, {}, batch, batch)


def of_stages(config: ConfigDict, data: store.Store) -> Iterator[FirstStep]:
    """Of each stage, on the records of a fold: `config.fold`, or the first one.

    Raises:
      ValueError: the method reads what the store does not have.
    """
    folds = splits.make_splits(
        data,
        scheme=config.data.scheme,
        folds=config.folds,
        seed=prepare.data_seed(config),
    )
    folds = validation.with_validation(
        folds, data, fraction=config.validation, seed=prepare.data_seed(config)
    )
    rows, test_rows = folds.folds[config.fold or 0]
    # Batches on the host, as a step is measured without its input.
    cached = "ram" if config.data.cache == "device" else config.data.cache
    images = loader.open_cache(data, config.data.image_size, cached)
    options: Any = {
        "image_size": config.data.image_size,
        "cache": images,
        "threads": decoding_threads(config),
    }
    earlier: Params = {}
    for name in config.stages or ("",):
        stage_config = registry.stage_config(config, name) if name else config
        setup = build.build(stage_config, metadata.dataset_info(data))
        inputs = setup.method.inputs
        of_graphs = cell_graphs.open_for(stage_config, inputs, data)
        batch = next(
            loader.train_batches(
                data,
                rows,
                batch_size=stage_config.batch_size,
                epochs=1,
                seed=stage_config.seed,
                omics="omics" in inputs.train,
                superpixels=superpixels.open_maps(data, inputs.superpixels),
                **cell_graphs.loading(inputs.train, of_graphs),
                **options,
            )
        )
        frozen = earlier | fold_constants.measure(
            stage_config, inputs, data, of_graphs, rows, taught=bool(earlier)
        )
        state = initial_state(
            setup.method, setup.optimizer, jax.random.key(0), batch, frozen
        )
        host = jax.device_get(state)
        earlier |= {name: Variables(params=host.params, state=host.state)}
        test_batch = next(
            loader.eval_batches(
                data,
                test_rows[: config.eval_batch_size],
                batch_size=config.eval_batch_size,
                omics="omics" in inputs.test,
                **cell_graphs.loading(inputs.test, of_graphs),
                **options,
            )
        )
        yield FirstStep(setup, state, frozen, batch, test_batch)


def _noise(config: ConfigDict) -> Batch:
    rng = np.random.default_rng(0)
    rows, side = config.batch_size, config.data.image_size
    n, floats = len(config.data.biomarkers), len(config.data.float_markers)
    return Batch(
        image=rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        grade=rng.integers(0, len(config.data.classes), rows).astype(np.int32),
        biomarkers=rng.integers(0, 2, (rows, n)).astype(np.int32),
        known=np.ones((rows, n), bool),
        floats=rng.normal(size=(rows, floats)).astype(np.float32),
        index=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )
