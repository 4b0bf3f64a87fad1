"""The row "Feats KL": divergence between softmaxes over the feature axis."""

import dataclasses

import jax
from jax import lax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fof_jax.methods.distill import heads, kl, terms
from fof_jax.methods.distill import student as students
from fof_jax.types import DatasetInfo, Params, State


def features_divergence(
    *, student: Float[Array, "B D"], teacher: Float[Array, "B D"]
) -> Float[Array, " B"]:
    r"""Kullback-Leibler divergence of features read as logits.

    .. math::
       \sum_d p^t_d (\log p^t_d - \log p^s_d), \quad p = softmax(f)

    Args:
      student, teacher: features; the teacher's have no gradient.

    Returns:
      the divergence of each row; the published loss is its mean.

    Source: METHODS.md 6.3; methods/distillation.md, "Formulas" (Feats KL).
    """
    return kl.divergence(student=student, teacher=teacher, temperature=1.0)


@dataclasses.dataclass(frozen=True)
class FeaturesKL(terms.Term):
    """The divergence behind a linear head with ReLU, which is dropped at test.

    Attributes:
      head: whether the student's feature is projected to the teacher's width. Without
        it both must have one width, as published.
    """

    name: str = "features_kl"
    weight: float | None = None
    source: terms.Source = "fixed"
    head: bool = True

    def init(self, key: jax.Array, sizes: terms.Sizes) -> tuple[Params, State]:
        """The head's parameters, no state.

        Raises:
          ValueError: no head, and features of two widths.
        """
        if not self.head:
            if sizes.student != sizes.teacher:
                raise ValueError(
                    f"{self.name}: the student's feature has width {sizes.student} and "
                    f"the teacher's {sizes.teacher}, expected one width. Use the head."
                )
            return {}, {}
        return heads.initial(key, inputs=sizes.student, outputs=sizes.teacher), {}

    def __call__(
        self, params: Params, state: State, inputs: terms.TermInputs
    ) -> tuple[Float[Array, " B"], State]:
        """See `terms.Term`."""
        feature = inputs.student.features
        if self.head:
            feature = jax.nn.relu(heads.linear(params, feature))
        teacher = lax.stop_gradient(inputs.teacher.features)
        return features_divergence(student=feature, teacher=teacher), state


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R.

    Args:
      config: `distill.alpha`, `distill.temperature` and `distill.beta` are read; a
        beta of None is measured.
      info: `classes` is read.

    Source: methods/distillation.md, "Recipes" (Feats KL).
    """
    return kl.with_terms(config, info, FeaturesKL(weight=config.distill.beta))
