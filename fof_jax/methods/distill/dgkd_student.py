"""The DGKD student: two teachers, two kinds of terms, weights by gradient cosines."""

from typing import Any

from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods import registry
from fof_jax.methods.distill import dc, kl, terms
from fof_jax.methods.distill import student as students
from fof_jax.types import DatasetInfo


def term_tuple(
    *, alpha: float, beta: float, temperature: float, **options: Any
) -> tuple[terms.Term, ...]:
    """alpha KL and beta DC, each from the frozen teacher and from the moving average.

    Args:
      alpha, beta: weights of KL and DC.
      temperature: of KL.
      options: of `dc.DC`.

    Returns:
      KL, KL of the average, DC, DC of the average, in the published order.

    Source: METHODS.md 5.7 (stage 2).
    """
    return (
        kl.term(weight=alpha, temperature=temperature),
        kl.term(weight=alpha, temperature=temperature, source="ema"),
        dc.DC(name="dc", weight=beta, **options),
        dc.DC(name="dc_ema", weight=beta, source="ema", **options),
    )


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The student of a configuration.

    Args:
      config: `distill.alpha`, `distill.temperature`, `distill.beta` (0.02 as
        published) and `distill.as_published` are read. The last one swaps the
        relations, runs the teacher in training mode and starts the moving average from
        a second draw.
      info: `classes` is read.

    Returns:
      the method: CE + sum of w_i L_i with w_i = 4 sum_j cos_ij.

    Source: METHODS.md 5.7; methods/distillation.md, "Recipes" (DGKD student).
    """
    published = config.distill.as_published
    return students.Student(
        encoder=encoders.build_classified(config),
        num_classes=len(info.classes),
        teacher=registry.create_teacher(config, info),
        terms=term_tuple(
            alpha=config.distill.alpha,
            beta=config.distill.beta,
            temperature=config.distill.temperature,
            swapped=published,
        ),
        rule="cosine_sums",
        independent_average=published,
        teacher_trains=published,
    )
