"""Rules that weight terms by the gradients of terms on the student's feature.

`gradients` holds dL_i / df for i over the n distillation terms and then the
cross-entropy, [n + 1, B, D]. Weights carry no gradient. A term whose gradient is zero
has cosine 0 with everything, itself too, where the published code gives NaN.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fof_jax.methods.distill.normalize import unit


def cosines(gradients: Float[Array, "N B D"]) -> Float[Array, "N N"]:
    """Cosines between the flattened gradients of all terms.

    Args:
      gradients: see the module.

    Returns:
      a symmetric matrix with 1 on the diagonal of terms with a gradient.

    Source: methods/distillation.md, "Formulas" (Weights).
    """
    flat = lax.stop_gradient(gradients).reshape(gradients.shape[0], -1)
    # Scaled first: the square of a small gradient underflows.
    largest = jnp.abs(flat).max(axis=1, keepdims=True)
    u = unit(flat / jnp.where(largest > 0, largest, 1.0))
    return jnp.matmul(u, u.T, precision=lax.Precision.HIGHEST)


def cosine_sums(
    gradients: Float[Array, "N B D"], *, scaled: bool
) -> Float[Array, " N"]:
    """DGKD: w_i = n sum_j cos_ij, over all terms, i itself and the cross-entropy.

    Args:
      gradients: see the module.
      scaled: whether the factor n, the number of distillation terms, is applied.

    Returns:
      weights of all terms, the last one unused; they can be negative.

    Source: METHODS.md 5.7; methods/distillation_corrections.md 10.
    """
    total = cosines(gradients).sum(axis=1)
    return total * (gradients.shape[0] - 1) if scaled else total


def agreement_counts(
    gradients: Float[Array, "N B D"], *, threshold: float
) -> Float[Array, " N"]:
    """XM2LR: q_i = number of terms, i itself included, with cos_ij > threshold.

    Args:
      gradients: see the module.
      threshold: 0.1 as published.

    Source: methods/distillation.md, "Formulas" (Weights).
    """
    return (cosines(gradients) > threshold).sum(axis=1).astype(jnp.float32)


def running(
    old: Float[Array, " N"], new: Float[Array, " N"], *, momentum: float
) -> Float[Array, " N"]:
    """The running average of counts: `new` at the first step.

    Args:
      old: before; all zeros before the first step, which a count never is where a
        term has a gradient.
      new: of this step.
      momentum: 0.5 as published.

    Source: methods/distillation.md, "Formulas" (Weights).
    """
    return jnp.where((old == 0).all(), new, momentum * old + (1 - momentum) * new)


def agrees_batch(gradients: Float[Array, "N B D"]) -> Bool[Array, " n"]:
    """SCKD on batches: whether cos(g_i, g_CE) > 0 for each distillation term.

    Args:
      gradients: see the module.

    Source: METHODS.md 6.7.
    """
    return cosines(gradients)[:-1, -1] > 0


def agrees_sample(gradients: Float[Array, "N B D"]) -> Bool[Array, "B n"]:
    """SCKD on samples: the same for each row alone.

    Args:
      gradients: of the sums over rows of values of each row, and of the cross-entropy.

    Returns:
      False where either gradient of a row is zero.

    Source: METHODS.md 6.7; methods/distillation.md, "Names" (rules).
    """
    g = lax.stop_gradient(gradients)
    largest = jnp.abs(g).max(axis=2, keepdims=True)
    u = unit(g / jnp.where(largest > 0, largest, 1.0))
    return ((u[:-1] * u[-1:]).sum(axis=2) > 0).T
