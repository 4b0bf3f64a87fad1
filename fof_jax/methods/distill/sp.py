"""The row "SP": row-normalized Gram matrices of a batch (similarity preserving)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods.distill import kl, terms
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill.normalize import unit
from fof_jax.types import DatasetInfo


def similarity_preserving(
    *, student: Float[Array, "B S"], teacher: Float[Array, "B T"]
) -> Float[Array, ""]:
    r"""Squared distance between the similarity matrices of a batch.

    .. math::
       \frac{1}{B^2} \| u(f_t f_t^T) - u(f_s f_s^T) \|_F^2, \quad
       u \text{ normalizes rows}

    Args:
      student, teacher: features; the teacher's have no gradient.

    Returns:
      the scalar. The row of a zero feature is 0 and has no gradient of its own, where
      the published gradient is of the order of 1e11.

    Source: METHODS.md 6.4; methods/distillation.md, "Formulas" (SP).
    """
    similarity = [
        unit(jnp.matmul(f, f.T, precision=lax.Precision.HIGHEST))
        for f in (lax.stop_gradient(teacher), student)
    ]  # [B, B] each
    return ((similarity[0] - similarity[1]) ** 2).mean()


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R; see `kl.with_terms`.

    Args:
      config: `distill.beta`, and what `kl.with_terms` reads.
    """

    def of(student: terms.Side, teacher: terms.Side) -> Float[Array, ""]:
        return similarity_preserving(student=student.features, teacher=teacher.features)

    term = terms.Pairwise(name="sp", weight=config.distill.beta, of=of)
    return kl.with_terms(config, info, term)
