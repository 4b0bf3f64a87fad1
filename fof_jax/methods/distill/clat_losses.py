"""CLAT's loss terms: divergence, query weights, neighbor contrast, gradient weights.

Pure functions of the global batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

NORM_FLOOR = 1e-12
CONTRAST_EPS = 1e-7


def unit(x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
    """Rows over their length; a zero row stays 0 and has a zero gradient."""
    squared = (x * x).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, NORM_FLOOR**2))


def divergence(
    *, student: Float[Array, "B K"], teacher: Float[Array, "B K"]
) -> Float[Array, " B"]:
    r"""KL of the student's softmax from the teacher's, row by row.

    .. math:: \sum_c p^t_c (\log p^t_c - \log p^s_c)

    Args:
      student, teacher: logits.

    Source: methods/clat_pathgcn.md, CLAT stage 1, step 4; stage 2, step 2.
    """
    log_t, log_s = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    return (jnp.exp(log_t) * (log_t - log_s)).sum(-1)


def query_weights(
    *,
    student: Float[Array, "B K"],
    teacher: Float[Array, "B K"],
    grade: Int[Array, " B"],
    cap: float,
) -> Float[Array, " B"]:
    r"""Weights of samples by how much surer of the grade the teacher is.

    .. math::
       q = 1 + \mathrm{clip}(m^t - m^s, 0, cap), \quad
       m = \log p_y - \max_{c \ne y} \log p_c

    Args:
      student, teacher: logits.
      grade: y.
      cap: 1 in the published setting.

    Returns:
      q, without a gradient.

    Source: methods/clat_pathgcn.md, CLAT stage 2, step 3.
    """

    def margin(logits: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(logits)
        true = jax.nn.one_hot(grade, logits.shape[-1], dtype=bool)
        of_grade = jnp.where(true, log_p, 0).sum(-1)
        return of_grade - jnp.where(true, -jnp.inf, log_p).max(-1)

    gap = margin(teacher) - margin(student)
    return lax.stop_gradient(1 + gap.clip(0, cap))


class Neighbors(NamedTuple):
    """Positives of each anchor in one bank.

    Attributes:
      rows: of the bank; the anchor's own is the first.
      weight: their cosines with the anchor's row; 0 for rows of another class, which
        fill up where the class has fewer rows of positive cosine.
    """

    rows: Int[Array, "B P"]
    weight: Float[Array, "B P"]


def nearest_of_class(
    bank: Float[Array, "n E"],
    labels: Int[Array, " n"],
    index: Int[Array, " B"],
    *,
    count: int,
) -> Neighbors:
    """The rows of a bank of an anchor's class that are nearest in cosine to its row.

    Args:
      bank: one row per training region.
      labels: class of each row; a negative label excludes a row.
      index: the anchors' rows.
      count: P.

    Source: methods/clat_pathgcn.md, CLAT stage 2, step 4.
    """
    directions = unit(bank)
    same = labels[index][:, None] == labels[None]
    cosine = jnp.matmul(
        directions[index], directions.T, precision=lax.Precision.HIGHEST
    )
    weight, nearest = lax.top_k(jnp.where(same, cosine, 0), count)
    return Neighbors(nearest, weight)


def candidate_scores(
    anchor: Float[Array, "B E"],
    bank: Float[Array, "n E"],
    candidates: Int[Array, "B C"],
    *,
    temperature: float,
) -> Float[Array, "B C"]:
    """exp of the inner products of anchors with rows of a bank, over the temperature.

    The bank is a constant.
    """
    rows = lax.stop_gradient(bank)[candidates]
    return jnp.exp(jnp.einsum("be,bce->bc", anchor, rows) / temperature)


def normalizer(
    scores: Float[Array, "B C"], previous: Float[Array, ""], *, rows: int
) -> Float[Array, ""]:
    """Z: mean of the first call's scores times n, and constant from then on.

    Args:
      scores: from `candidate_scores`.
      previous: negative before the first call.
      rows: n, of the bank.
    """
    first = lax.stop_gradient(scores).mean() * rows
    return jnp.where(previous < 0, first, previous)


def neighbor_contrast(
    scores: Float[Array, "B C"],
    weight: Float[Array, "B P"],
    *,
    rows: int,
) -> Float[Array, " B"]:
    r"""One side of the contrast, with the first P candidates as weighted positives.

    .. math::
       \ell_b = -\frac{\sum_p \omega_p [\log \frac{x_p}{x_p + c + \epsilon} +
         \sum_k \log \frac{c}{x_k + c + \epsilon}]}{\sum_p \omega_p}, \quad c = K / n

    Args:
      scores: x, over Z; the P positives, then the K negatives.
      weight: omega, of the positives.
      rows: n, of the bank.

    Source: methods/clat_pathgcn.md, CLAT stage 2, step 4 (S6: no mean over K).
    """
    positives = weight.shape[1]
    c = (scores.shape[1] - positives) / rows
    x, negative = scores[:, :positives], scores[:, positives:]
    log_positive = jnp.log(x / (x + c + CONTRAST_EPS))
    log_negative = jnp.log(c / (negative + c + CONTRAST_EPS)).sum(-1)
    weighted = (weight * log_positive).sum(-1) / weight.sum(-1)
    return -(weighted + log_negative)


def moved_bank(
    bank: Float[Array, "n E"],
    index: Int[Array, " B"],
    embedding: Float[Array, "B E"],
    *,
    momentum: float,
) -> Float[Array, "n E"]:
    """The bank with the batch's rows moved to their embeddings, of length 1."""
    moved = momentum * bank[index] + (1 - momentum) * lax.stop_gradient(embedding)
    return bank.at[index].set(unit(moved))


def sample_negatives(
    key: jax.Array,
    labels: Int[Array, " n"],
    index: Int[Array, " B"],
    *,
    count: int,
) -> Int[Array, "B K"]:
    """Rows drawn uniformly, with replacement, from all rows but the anchor's own.

    They include rows of the anchor's class, as published (S2).

    Args:
      key: equal on all devices.
      labels: class of each row; rows with a negative label are never drawn.
      index: the anchors' rows; their labels are not negative.
      count: K.
    """
    position = jnp.cumsum(labels >= 0)  # of a row among those that can be drawn, from 1
    anchor_rank = position[index][:, None]
    draw = jax.random.uniform(key, (len(index), count))
    rank = 1 + jnp.floor(draw * (position[-1] - 1)).astype(position.dtype)
    rank = jnp.minimum(rank, position[-1] - 1)  # the product can round up
    return jnp.searchsorted(position, rank + (rank >= anchor_rank)).astype(index.dtype)


def cosines(gradients: Float[Array, "T B D"]) -> Float[Array, "B T T"]:
    """Cosines between the terms' gradients of each sample; 0 with a zero gradient."""
    directions = unit(gradients)
    return jnp.einsum(
        "ibd,jbd->bij", directions, directions, precision=lax.Precision.HIGHEST
    )


def gradient_weights(
    gradients: Float[Array, "T B D"], *, threshold: float
) -> Float[Array, "B T"]:
    """For each term and sample, the number of terms that it agrees with.

    Args:
      gradients: of each term with respect to the student's feature; the last is that
        of the cross-entropy.
      threshold: a cosine above it counts. A term counts itself, unless its gradient
        is 0.

    Returns:
      Counts, without a gradient.

    Source: methods/clat_pathgcn.md, CLAT stage 2, step 5.
    """
    agree = cosines(lax.stop_gradient(gradients)) > threshold
    return agree.sum(-1).astype(jnp.float32)
