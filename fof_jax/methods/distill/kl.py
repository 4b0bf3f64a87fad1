"""The row "KL div": divergence between class probabilities."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods import registry
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill import terms
from fof_jax.types import DatasetInfo


def divergence(
    *,
    student: Float[Array, "B K"],
    teacher: Float[Array, "B K"],
    temperature: float | Float[Array, ""],
) -> Float[Array, " B"]:
    r"""Kullback-Leibler divergence of softened probabilities.

    .. math::
       T^2 \sum_c p^t_c (\log p^t_c - \log p^s_c), \quad p = softmax(y / T)

    Args:
      student, teacher: logits; the teacher's have no gradient.
      temperature: T, 1 in every published command.

    Returns:
      the divergence of each row; the published loss is its mean.

    Source: METHODS.md 6.1; methods/distillation.md, "Formulas" (KL).
    """
    log_s = jax.nn.log_softmax(student / temperature)
    log_t = jax.nn.log_softmax(lax.stop_gradient(teacher) / temperature)
    return temperature**2 * (jnp.exp(log_t) * (log_t - log_s)).sum(axis=-1)


def term(
    *, weight: float, temperature: float, source: terms.Source = "fixed"
) -> terms.Term:
    """The divergence as a term of a student's loss, for every row.

    Args:
      weight: alpha.
      temperature: T.
      source: the teacher that is compared with.
    """

    def of(student: terms.Side, teacher: terms.Side) -> Float[Array, " B"]:
        return divergence(
            student=student.logits, teacher=teacher.logits, temperature=temperature
        )

    name = "kl" if source == "fixed" else f"kl_{source}"
    return terms.Pairwise(name=name, weight=weight, source=source, of=of)


def with_terms(
    config: ConfigDict, info: DatasetInfo, *more: terms.Term
) -> students.Student:
    """CE + alpha KL + the sum of further terms: the frame of the single-teacher rows.

    Args:
      config: `distill.alpha`, `distill.temperature` and `distill.as_published` are
        read; the last runs the teacher in training mode.
      info: `classes` is read.
      more: terms with their weights.

    Returns:
      the method.

    Source: METHODS.md 6.0; methods/distillation.md, "Recipes".
    """
    divergence_term = term(
        weight=config.distill.alpha, temperature=config.distill.temperature
    )
    return students.Student(
        encoder=encoders.build_classified(config),
        num_classes=len(info.classes),
        teacher=registry.create_teacher(config, info),
        terms=(divergence_term, *more),
        teacher_trains=config.distill.as_published,
    )


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL; see `with_terms`."""
    return with_terms(config, info)
