"""The fusion rows with small encoders and published widths, and batches for them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from fof_jax.configs import comparison
from fof_jax.methods.fusion import (
    concat,
    ddmnet,
    foaa,
    gpdbn,
    hfbsurv,
    pathomic,
    scnn,
)
from fof_jax.types import Batch, DatasetInfo, StepContext, Variables

CLASSES = ("II", "III", "IV")
OMICS = 80
ENCODER_WIDTH = 12


class SmallEncoder(nn.Module):
    """Mean of each channel and a dense layer."""

    features: int = ENCODER_WIDTH

    @nn.compact
    def __call__(self, image, *, train):
        del train
        return nn.relu(nn.Dense(self.features, name="dense")(image.mean(axis=(1, 2))))


def namespace(**sections):
    return ConfigDict(sections)


def config(row):
    """The config of a row with the published widths of its fusion."""
    fusion = {
        "concat": {"image_features": 128, "cut_gradient": False},
        "scnn": {"image_features": 128, "dropout": 0.05},
        "pathomic": {
            "form": "single_stage",
            "image_features": 128,
            "dropout": 0.1,
            "cut_gradient": False,
        },
        "pathomic_two_stage": {"form": "two_stage", "dropout": 0.25},
        "gpdbn": {"image_features": 32, "dropout": 0.1},
        "hfbsurv": {"image_features": 128, "dropout": 0.3},
        "ddmnet": {"image_features": 128, "dropout": 0.25, "modality_dropout": 0.2},
        "foaa": {"image_features": 64, "dropout": 0.01, "over_entries": False},
    }[row]
    made = comparison.get_config(f"phantom-fusion.{row.removesuffix('_two_stage')}")
    with made.unlocked():
        made.fusion = ConfigDict(fusion)
        made.omics.dropout = 0.25
    return made


MODULES = {
    "concat": concat,
    "scnn": scnn,
    "pathomic": pathomic,
    "pathomic_two_stage": pathomic,
    "gpdbn": gpdbn,
    "hfbsurv": hfbsurv,
    "ddmnet": ddmnet,
    "foaa": foaa,
}


def build(row):
    """The method of a row."""
    width = 32 if row == "pathomic_two_stage" else ENCODER_WIDTH
    return build_from(row, config(row), SmallEncoder(width))


def build_from(row, config, image_encoder):
    """The method of a config, on another image encoder than the config's."""
    method = MODULES[row].build(config, DatasetInfo(CLASSES, (), ()))
    network = method.network.clone(image_encoder=image_encoder)
    return dataclasses.replace(method, network=network)


@functools.cache
def frozen(row):
    """Weights of earlier stages, for the row that needs them."""
    if row != "pathomic_two_stage":
        return None
    images = {"encoder": small_encoder_params(32)}
    method = build(row)
    start = functools.partial(method.network.omics_network.init, train=False)
    omics = jax.jit(start)(jax.random.key(5), jnp.zeros((1, OMICS)))["params"]
    return {
        "image": Variables(params=images, state={}, frozen=None),
        "omics_network": Variables(params=omics, state={}, frozen=None),
    }


def small_encoder_params(width):
    start = functools.partial(SmallEncoder(width).init, train=False)
    return jax.jit(start)(jax.random.key(4), jnp.zeros((1, 4, 4, 3)))["params"]


def batch(size=4, seed=0, **fields):
    """Random images and omics."""
    rng = np.random.default_rng(seed)
    values = {
        "image": rng.normal(size=(size, 4, 4, 3)).astype(np.float32),
        "grade": rng.integers(0, 3, size).astype(np.int32),
        "biomarkers": np.zeros((size, 0), np.int32),
        "known": np.zeros((size, 0), bool),
        "floats": np.zeros((size, 0), np.float32),
        "index": np.arange(size, dtype=np.int32),
        "epoch": np.zeros(size, np.int32),
        "valid": np.ones(size, bool),
        "omics": rng.normal(size=(size, OMICS)).astype(np.float32),
        "omics_known": np.ones((size, OMICS), bool),
    }
    return jax.tree.map(jnp.asarray, Batch(**{**values, **fields}))


def context(seed=0, gather=lambda x: x):
    return StepContext(
        key=jax.random.key(seed),
        step=jnp.zeros((), jnp.int32),
        progress=jnp.zeros(()),
        gather=gather,
    )
