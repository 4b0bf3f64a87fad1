"""Weights of a student's terms: measured once, or by a rule at every step."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fof_jax.methods.distill import combine

Rule = Literal["sum", "cosine_sums", "running_counts", "agrees_batch", "agrees_sample"]
MEASURED_BATCHES = 20
MEASURED_RATIO = 0.5
Measured = dict[str, jax.Array]


def unmeasured() -> Measured:
    """Sums before the first batch."""
    return {name: jnp.zeros(()) for name in ("divergence", "term", "batches")}


def measured(
    sums: Measured, *, divergence: Float[Array, ""], term: Float[Array, ""]
) -> tuple[Float[Array, ""], Measured]:
    """beta = 0.5 mean KL / mean R over the first 20 batches, constant afterwards.

    In these batches beta is 0, so that the term's heads are still untrained.

    Args:
      sums: so far.
      divergence, term: of this batch, unweighted.

    Returns:
      beta of this batch, and the sums after it. A term that was 0 throughout has
      beta 0.

    Source: methods/distillation.md, "Recipes" (weight rule).
    """
    measuring = sums["batches"] < MEASURED_BATCHES
    some = sums["term"] > 0
    ratio = sums["divergence"] / jnp.where(some, sums["term"], 1.0)
    beta = jnp.where(measuring | ~some, 0.0, MEASURED_RATIO * ratio)
    new = {"divergence": divergence, "term": term, "batches": jnp.ones(())}
    return beta, {
        name: sums[name] + jnp.where(measuring, lax.stop_gradient(value), 0.0)
        for name, value in new.items()
    }


def combined(
    values: list[jax.Array],
    *,
    rule: Rule,
    gradients: Callable[[], Float[Array, "N B D"]],
    counts: Float[Array, " N"] | None,
    factor: float,
    threshold: float,
    momentum: float,
) -> tuple[Float[Array, ""], list[jax.Array], Float[Array, " N"] | None]:
    """The weighted sum of the terms.

    Args:
      values: of each term, with its alpha or beta, for the batch or for each row.
      rule: "sum", or a function of `combine`.
      gradients: of the terms and the cross-entropy; called unless the rule is "sum".
      counts: of "running_counts", before this step.
      factor: of "agrees_batch" and "agrees_sample".
      threshold, momentum: of "running_counts".

    Returns:
      the sum, the mean weight of each term, and the counts.

    Raises:
      ValueError: "agrees_sample" with a term that has no value for each row.
    """
    means = jnp.stack([value.mean() for value in values])
    if rule == "sum":
        return means.sum(), [jnp.ones(()) for _ in values], counts
    g = gradients()
    if rule == "agrees_sample":
        if any(value.ndim == 0 for value in values):
            raise ValueError(
                "distill: masks of samples with a term that has one value for the "
                'batch. Use the rule "agrees_batch".'
            )
        keep = combine.agrees_sample(g)  # [B, n]
        total = factor * (keep * jnp.stack(values, axis=1)).sum() / keep.shape[0]
        return total, list(factor * keep.mean(axis=0)), counts
    if rule == "cosine_sums":
        weights = combine.cosine_sums(g, scaled=True)[:-1]
    elif rule == "running_counts":
        new = combine.agreement_counts(g, threshold=threshold)
        old = jnp.zeros_like(new) if counts is None else counts
        counts = combine.running(old, new, momentum=momentum)
        weights = counts[:-1]
    else:
        weights = factor * combine.agrees_batch(g)
    return (weights * means).sum(), list(weights), counts
