"""Memory banks of the training fold's embeddings, and draws of other rows from it.

A bank has one row for each row of the training fold, in the order of the fold's
labels. `frozen["labels"]` holds `index`, the store positions of the fold in ascending
order, and `grade`; a batch's own `index` is translated into rows of the bank here.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.distill.normalize import unit

Banks = dict[str, jax.Array]  # "student", "teacher" [n, E] and "Z" [2]


def initial(key: jax.Array, *, rows: int, width: int) -> Banks:
    """Banks before training: uniform within 1 / sqrt(width / 3), Z unset.

    Args:
      key: of the draw.
      rows: n, size of the training fold.
      width: E.

    Returns:
      `student` (M_s), `teacher` (M_t), and `Z` = (Z_s, Z_t), 0 until the first call.

    Source: METHODS.md 6.6.
    """
    bound = 1 / math.sqrt(width / 3)
    keys = jax.random.split(key)
    student, teacher = (
        jax.random.uniform(k, (rows, width), jnp.float32, -bound, bound) for k in keys
    )
    return {"student": student, "teacher": teacher, "Z": jnp.zeros((2,))}


def rows_of(index: Int[Array, " B"], fold_index: Int[Array, " n"]) -> Int[Array, " B"]:
    """Rows of the bank for a batch.

    Args:
      index: store positions of the batch.
      fold_index: store positions of the training fold, ascending.

    Returns:
      positions in `fold_index`; n where a record is not in the fold, for which a look
      into a bank gives NaN, so that the loss is not finite and training stops.
    """
    size = fold_index.shape[0]
    row = jnp.searchsorted(fold_index, index)
    in_fold = fold_index[jnp.minimum(row, size - 1)] == index
    return jnp.where(in_fold, row, size).astype(jnp.int32)


def look_up(bank: Float[Array, "n E"], idx: Int[Array, "*S"]) -> Float[Array, "*S E"]:
    """Rows of a bank without gradient; NaN outside of it."""
    return lax.stop_gradient(jnp.take(bank, idx, axis=0, mode="fill"))


def similarity(
    *, anchor: Float[Array, "B E"], bank: Float[Array, "n E"], idx: Int[Array, "B P"]
) -> Float[Array, "B P"]:
    """Inner products of each anchor with its candidates, in full precision.

    One product with the whole bank and a choice of its entries: gathering the
    candidates [B, P, E] takes longer and more memory than all n products.

    Args:
      anchor: embeddings.
      bank: without gradient.
      idx: rows of the bank; NaN outside of it.
    """
    products = jnp.matmul(
        anchor, lax.stop_gradient(bank).T, precision=lax.Precision.HIGHEST
    )
    return jnp.take_along_axis(products, idx, axis=1, mode="fill")


def normalizer(
    *, unset: Float[Array, ""], scores: Float[Array, "B P"], rows: int
) -> Float[Array, ""]:
    """Z of one side: mean(scores) n at the first call, constant from then on.

    Args:
      unset: the Z so far, 0 before the first call.
      scores: exp(similarity / tau).
      rows: n.

    Returns:
      Z, without gradient at the first call too.

    Source: METHODS.md 6.6; methods/distillation.md, "Formulas" (CRD).
    """
    return lax.stop_gradient(jnp.where(unset > 0, unset, scores.mean() * rows))


def moved(
    *,
    bank: Float[Array, "n E"],
    row: Int[Array, " B"],
    anchor: Float[Array, "B E"],
    momentum: float,
) -> Float[Array, "n E"]:
    """The bank after a batch: M[y] <- unit(m M[y] + (1 - m) e).

    Args:
      bank: before.
      row: of each anchor. Where a row occurs twice the last one counts, in a fixed
        order, so that the bank is equal on all devices.
      anchor: e, of the rows of all devices.
      momentum: m.

    Returns:
      the new bank, without gradient.

    Source: METHODS.md 6.6.
    """
    new = unit(momentum * look_up(bank, row) + (1 - momentum) * anchor)
    later = jnp.triu(row[:, None] == row[None, :], k=1).any(axis=1)
    target = jnp.where(later, bank.shape[0], row)
    return bank.at[target].set(lax.stop_gradient(new), mode="drop")


def other_rows(
    key: jax.Array, *, row: Int[Array, " B"], rows: int, size: int
) -> Int[Array, "B K"]:
    """Draws any other row, of whatever class, with replacement.

    Args:
      key: of the draw.
      row: of each anchor.
      rows: n, at least 2.
      size: K.

    Source: methods/distillation_corrections.md 4.
    """
    drawn = jax.random.randint(key, (row.shape[0], size), 0, rows - 1)
    return drawn + (drawn >= row[:, None])


def allowed_rows(
    key: jax.Array, *, allowed: Bool[Array, "B n"], size: int, distinct: bool = False
) -> tuple[Int[Array, "B K"], Int[Array, " B"]]:
    """Draws rows among the allowed ones of each anchor.

    Args:
      key: of the draw.
      allowed: the candidates of each anchor.
      size: K.
      distinct: what to do with fewer than K candidates: all of them in random order,
        over and over, else independent draws with replacement.

    Returns:
      rows, distinct where there are K candidates, and the number of candidates. An
      anchor without any candidate draws among all rows, so that losses stay finite.

    Source: METHODS.md 5.7, 6.6; methods/distillation_corrections.md 3, 17.
    """
    batch, rows = allowed.shape
    order_key, draw_key = jax.random.split(key)
    rank = jax.random.uniform(order_key, (batch, rows)) + jnp.where(allowed, 0.0, 2.0)
    # Candidates first, in random order; no position below is beyond the first `size`.
    order = lax.top_k(-rank, min(size, rows))[1]
    count = allowed.sum(axis=1)
    among = jnp.where(count > 0, count, rows)[:, None]
    position = jnp.arange(size)[None, :] % among
    if not distinct:
        uniform = jax.random.uniform(draw_key, (batch, size))
        again = jnp.minimum((uniform * among).astype(jnp.int32), among - 1)
        position = jnp.where(among < size, again, position)
    return jnp.take_along_axis(order, position, axis=1), count
