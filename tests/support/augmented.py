"""Augmented batches in gray levels, compiled once for the tests of augmentation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.data.augment.options import Augmentation
from fof_jax.data.augment.pipeline import augment
from fof_jax.types import Batch

OFF = Augmentation.off()


LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def batch_of(images, index=None, epoch=None):
    n = len(images)
    return Batch(
        image=jnp.asarray(images),
        grade=jnp.zeros(n, jnp.int32),
        biomarkers=jnp.zeros((n, 2), jnp.int32),
        known=jnp.ones((n, 2), bool),
        floats=jnp.zeros((n, 0)),
        index=jnp.asarray(range(n) if index is None else index, jnp.int32),
        epoch=jnp.asarray([0] * n if epoch is None else epoch, jnp.int32),
        valid=jnp.ones(n, bool),
    )


def key(seed=0):
    return jax.random.key(seed)


def drawn_as_levels(image, index, epoch, seed_key, *, spec):
    batch = batch_of(image, index, epoch)
    return augment(batch, seed_key, spec=spec, **LEVELS).image


compiled = jax.jit(drawn_as_levels, static_argnames="spec")


quick = jax.jit(
    drawn_as_levels,
    static_argnames="spec",
    compiler_options={"xla_backend_optimization_level": 0},
)


@partial(jax.jit, static_argnames="spec")
def gray(images, index, *, spec):
    return augment(batch_of(images, index), key(), spec=spec, color=False).image


def levels(images, spec, *, seed=0, index=None, epoch=None, run=quick):
    """Augmented images in gray levels."""
    n = len(images)
    index = np.arange(n) if index is None else np.asarray(index)
    epoch = np.zeros(n, int) if epoch is None else np.asarray(epoch)
    return np.asarray(run(images, index, epoch, key(seed), spec=spec))
