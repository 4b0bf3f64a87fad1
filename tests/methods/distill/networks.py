"""Small encoders, a teacher and batches for the tests of students and of DGKD."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax.methods.base import Inputs
from fof_jax.types import Batch, Output, StepContext, Variables

ROWS = 24
CLASSES = 3


class Encoder(nn.Module):
    """Mean over pixels, a linear layer, tanh; called as encoders without tokens are."""

    features: int = 6

    @nn.compact
    def __call__(self, image, *, train):
        del train
        return jnp.tanh(nn.Dense(self.features)(image.mean(axis=(1, 2))))


class Teacher:
    """A linear function of image and omics."""

    inputs = Inputs(("image", "omics"), ("image", "omics"), None)

    def apply(self, variables, batch):
        x = jnp.concatenate([batch.image.mean(axis=(1, 2)), batch.omics], axis=1)
        features = jnp.tanh(x @ variables.params["kernel"])
        return Output(features=features, logits=features @ variables.params["head"])


def batch(size=8, seed=0, second_view=True):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, 4, 4, 3)).astype(np.float32)
    return Batch(
        image=jnp.asarray(image),
        grade=jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32),
        biomarkers=jnp.zeros((size, 0), jnp.int32),
        known=jnp.zeros((size, 0), bool),
        floats=jnp.zeros((size, 0)),
        index=jnp.asarray(10 + 2 * rng.permutation(ROWS)[:size], jnp.int32),
        epoch=jnp.zeros(size, jnp.int32),
        valid=jnp.ones(size, bool),
        second_view=jnp.asarray(image + 0.1) if second_view else None,
        omics=jnp.asarray(rng.normal(size=(size, 5)), jnp.float32),
    )


def frozen():
    rng = np.random.default_rng(9)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(5, CLASSES)), jnp.float32),
    }
    return {
        "teacher": Variables(params=params, state={}, frozen={}),
        "labels": {
            "index": jnp.asarray(10 + 2 * np.arange(ROWS), jnp.int32),
            "grade": jnp.asarray(np.arange(ROWS) % CLASSES, jnp.int32),
        },
    }


def context(step=0, gather=lambda x: x):
    return StepContext(
        key=jax.random.key(7), step=jnp.asarray(step), progress=0.0, gather=gather
    )


def two_devices(method, variables, whole, step):
    """The loss, mean gradient and state of two devices with half a batch each."""
    halves = jax.tree.map(
        lambda x: np.asarray(x).reshape(2, x.shape[0] // 2, *x.shape[1:]), whole
    )

    def run(half):
        ctx = context(step, lambda x: jax.lax.all_gather(x, "batch", tiled=True))

        def loss(params):
            return method.loss(variables.replace(params=params), half, ctx)

        (value, out), g = jax.value_and_grad(loss, has_aux=True)(variables.params)
        return value, jax.lax.pmean(g, "batch"), out.state, out.metrics

    return jax.device_get(jax.pmap(run, axis_name="batch")(halves))


@functools.partial(jax.jit, static_argnums=0)  # one program a method
def graded(method, variables, whole, step):
    def loss(params):
        return method.loss(variables.replace(params=params), whole, context(step))

    return jax.value_and_grad(loss, has_aux=True)(variables.params)


def one_device(method, variables, whole, step):
    """The same on one device; both are on the host, where tests compile nothing."""
    result = graded(method, variables, whole, np.int32(step))
    (value, out), g = jax.device_get(result)
    return value, g, out.state, out.metrics


def started(method, data=None, seed=1):
    """Variables of a method; not compiled as a whole, as methods share the parts."""
    data = batch() if data is None else data
    return method.init(jax.random.key(seed), data, frozen())
