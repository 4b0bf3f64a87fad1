"""The row "RKD": distances and angles between the features of a batch."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods.distill import kl, terms
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill.normalize import unit
from fof_jax.types import DatasetInfo

SQUARE_FLOOR = 1e-12
DISTANCE_WEIGHT, ANGLE_WEIGHT = 25.0, 50.0


def relational(
    *,
    student: Float[Array, "B S"],
    teacher: Float[Array, "B T"],
    distance_weight: float | Float[Array, ""],
    angle_weight: float | Float[Array, ""],
) -> Float[Array, ""]:
    r"""Smooth L1 between distances and between angles of two feature sets.

    .. math::
       D_{ij} = |f_i - f_j| / mean_{D > 0}, \quad
       A_{ijk} = \langle u(f_j - f_i), u(f_k - f_i) \rangle, \quad
       w_D \, \ell(D^s - D^t) + w_A \, \ell(A^s - A^t)

    with l the mean of smooth L1 (beta 1) over B^2 and B^3 entries.

    Args:
      student, teacher: features; the teacher's have no gradient.
      distance_weight, angle_weight: w_D and w_A, 25 and 50 as published.

    Returns:
      the scalar. It is 0 with gradient 0 for B = 1, where the published code gives
      NaN, and for B = 2, where both matrices are constant. Of two equal features the
      distance is 1e-6 and counts in the mean; their direction is 0 with gradient 0,
      where the published gradient is of the order of 1e11.

    Source: METHODS.md 6.5; methods/distillation.md, "Formulas" (RKD).
    """
    teacher = lax.stop_gradient(teacher)
    distance = _smooth_l1(_distances(student) - _distances(teacher))
    angle = _smooth_l1(_angles(student) - _angles(teacher))
    return distance_weight * distance + angle_weight * angle


def _distances(f: Float[Array, "B D"]) -> Float[Array, "B B"]:
    # Of differences, not of the Gram matrix, whose rounding would separate equal rows.
    between = ((f[None, :, :] - f[:, None, :]) ** 2).sum(axis=2)
    distance = jnp.sqrt(jnp.maximum(between, SQUARE_FLOOR))
    distance = jnp.where(jnp.eye(f.shape[0], dtype=bool), 0.0, distance)
    # No pair, no mean: one row has the distance 0 to itself alone.
    mean = distance.sum() / max(f.shape[0] * (f.shape[0] - 1), 1)
    return distance / jnp.where(mean > 0, mean, 1.0)


def _angles(f: Float[Array, "B D"]) -> Float[Array, "B B B"]:
    direction = unit(f[None, :, :] - f[:, None, :])  # [B, B, D], from i to j
    return jnp.einsum(
        "ijd,ikd->ijk", direction, direction, precision=lax.Precision.HIGHEST
    )


def _smooth_l1(x: Float[Array, "*S"]) -> Float[Array, ""]:
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x**2, size - 0.5).mean()


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R.

    Args:
      config: `distill.alpha`, `distill.temperature` and `distill.beta` are read; a
        beta of None is measured.
      info: `classes` is read.

    Source: methods/distillation.md, "Recipes" (RKD).
    """

    def of(student: terms.Side, teacher: terms.Side) -> Float[Array, ""]:
        return relational(
            student=student.features,
            teacher=teacher.features,
            distance_weight=DISTANCE_WEIGHT,
            angle_weight=ANGLE_WEIGHT,
        )

    return kl.with_terms(
        config, info, terms.Pairwise(name="rkd", weight=config.distill.beta, of=of)
    )
