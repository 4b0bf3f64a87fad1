"""The row "SCKD": terms are kept where their gradient agrees with the cross-entropy's.

A reconstruction: the terms of the published row are not known. Here they are the
divergences of logits and of features from the frozen teacher, with a mask for each
sample.
"""

from typing import Any

from flax import linen as nn

from fof_jax.methods.distill import features_kl, kl, weighting
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill.teaching import Teacher


def build(
    config: Any, info: Any, *, encoder: nn.Module, teacher: Teacher
) -> students.Student:
    """The row of a configuration: CE + sum of masked alpha KL and beta Feats KL.

    Args:
      config: `distill.alpha`, `distill.temperature`, `distill.beta` (None is measured)
        and `distill.mask`, "sample" or "batch", are read.
      info: `classes` is read.
      encoder: of the image.
      teacher: of the stage before.

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
        encoder=encoder,
        num_classes=len(info.classes),
        teacher=teacher,
        terms=(divergence, features_kl.FeaturesKL(weight=config.distill.beta)),
        rule=rules[config.distill.mask],
    )
