"""The row "SCKD": terms are kept where their gradient agrees with the cross-entropy's.

A reconstruction: the terms of the published row are not known. Here they are the
divergences of logits and of features from the frozen teacher, with a mask for each
sample.
"""

from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods import registry
from fof_jax.methods.distill import features_kl, kl, weighting
from fof_jax.methods.distill import student as students
from fof_jax.types import DatasetInfo


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + sum of masked alpha KL and beta Feats KL.

    Args:
      config: `distill.alpha`, `distill.temperature`, `distill.beta` (None is measured)
        `distill.mask`, "sample" or "batch", and `distill.as_published` are read; the
        last runs the teacher in training mode.
      info: `classes` is read.

    Returns:
      the method.

    Raises:
      ValueError: another mask.

    Source: METHODS.md 6.7; methods/distillation.md, "Recipes" (SCKD); corrections 6.
    """
    rules: dict[str, weighting.Rule] = {
        "sample": "agrees_sample",
        "batch": "agrees_batch",
    }
    if config.distill.mask not in rules:
        raise ValueError(
            f"distill.mask: got {config.distill.mask!r}, expected 'sample' or 'batch'."
        )
    divergence = kl.term(
        weight=config.distill.alpha, temperature=config.distill.temperature
    )
    return students.Student(
        encoder=encoders.build_classified(config),
        num_classes=len(info.classes),
        teacher=registry.create_teacher(config, info),
        terms=(divergence, features_kl.FeaturesKL(weight=config.distill.beta)),
        rule=rules[config.distill.mask],
        teacher_trains=config.distill.as_published,
    )
