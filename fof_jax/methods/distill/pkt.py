"""The row "PKT": pairwise cosines of a batch as conditional probabilities."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods.distill import kl, terms
from fof_jax.methods.distill import student as students
from fof_jax.types import DatasetInfo

EPSILON = 1e-7


def probabilistic_transfer(
    *, student: Float[Array, "B S"], teacher: Float[Array, "B T"]
) -> Float[Array, ""]:
    r"""Divergence between the similarity distributions of a batch.

    .. math::
       U = f / (|f| + \epsilon), \quad K = (U U^T + 1) / 2, \quad
       P_{ij} = K_{ij} / \sum_k K_{ik}

    .. math::
       \frac{1}{B^2} \sum_{ij} P^t_{ij}
         \log \frac{P^t_{ij} + \epsilon}{P^s_{ij} + \epsilon}, \quad
       \epsilon = 10^{-7}

    Args:
      student, teacher: features; the teacher's have no gradient.

    Returns:
      the mean over B^2 pairs, diagonal included. A zero feature has a zero gradient.

    Source: METHODS.md 6.2; methods/distillation.md, "Formulas" (PKT).
    """
    p_t = _conditional(lax.stop_gradient(teacher))
    p_s = _conditional(student)
    return (p_t * (jnp.log(p_t + EPSILON) - jnp.log(p_s + EPSILON))).mean()


def _conditional(f: Float[Array, "B D"]) -> Float[Array, "B B"]:
    square = (f * f).sum(axis=1, keepdims=True)
    # A square root of 0 has an infinite derivative; a zero row stays 0.
    zero = square == 0
    u = jnp.where(zero, 0.0, f / (jnp.sqrt(jnp.where(zero, 1.0, square)) + EPSILON))
    kernel = (jnp.matmul(u, u.T, precision=lax.Precision.HIGHEST) + 1) / 2
    return kernel / kernel.sum(axis=1, keepdims=True)


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R.

    Args:
      config: `distill.alpha`, `distill.temperature` and `distill.beta` are read; a
        beta of None is measured.
      info: `classes` is read.

    Source: methods/distillation.md, "Recipes" (PKT).
    """

    def of(student: terms.Side, teacher: terms.Side) -> Float[Array, ""]:
        return probabilistic_transfer(
            student=student.features, teacher=teacher.features
        )

    return kl.with_terms(
        config, info, terms.Pairwise(name="pkt", weight=config.distill.beta, of=of)
    )
