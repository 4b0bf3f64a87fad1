"""Attention within segments, in tiles of queries and keys.

A tile is skipped where its queries and its keys have no segment in common, by the
smallest and the largest of each: on tokens sorted by segment these are the tiles
between two segments. The forward pass keeps a running maximum and sum over the tiles
of keys; the backward pass recomputes the probabilities.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

SIDE = 512  # tokens of a tile; its scores of one row take 1 MiB

_NEVER = -1e30  # score of a token of another segment, before the exponential


def forward(
    q: Float[Array, "R P d"],
    k: Float[Array, "R P d"],
    v: Float[Array, "R P d"],
    segments: Int[Array, "R P"],
) -> tuple[Float[Array, "R P d"], Float[Array, "R P"]]:
    """Softmax attention within segments, and the log-sum-exp of each query's scores."""
    rows, length, width = q.shape
    tiles = [split(a, SIDE) for a in (q / math.sqrt(width), k, v)]
    queries, keys, values = tiles
    ids = _ids(segments)
    ends = ids.min((1, 2)), ids.max((1, 2))

    def attend(part):
        q_c, id_q, *ends_q = part

        def add(carry, part):
            k_c, v_c, id_k, *ends_k = part

            def update(carry):
                largest, total, o = carry
                s = matmul(q_c, k_c.swapaxes(1, 2))
                s = jnp.where(same(id_q, id_k), s, _NEVER)
                now = jnp.maximum(largest, s.max(-1, keepdims=True))
                # Rows that have met no key of their segment sum ones here, which the
                # first key of their own removes: this factor is then 0.
                factor, p = jnp.exp(largest - now), jnp.exp(s - now)
                total = total * factor + p.sum(-1, keepdims=True)
                return now, total, o * factor + matmul(p.astype(v_c.dtype), v_c)

            return lax.cond(_meet(ends_q, ends_k), update, lambda c: c, carry), None

        shape = (rows, q_c.shape[1])
        start = (
            jnp.full((*shape, 1), _NEVER, jnp.float32),
            jnp.zeros((*shape, 1), jnp.float32),
            jnp.zeros((*shape, width), jnp.float32),
        )
        (largest, total, o), _ = lax.scan(add, start, (keys, values, ids, *ends))
        return (o / total).astype(v.dtype), (largest + jnp.log(total))[..., 0]

    o, lse = lax.map(attend, (queries, ids, *ends))
    return merge(o, length), merge(lse, length)


def backward(q, k, v, do, lse, delta, segments):
    """Gradients of q, k and v, each [R, P, d].

    Args:
      q, k, v, segments: as of `forward`.
      do: gradient of its first output.
      lse: its second output.
      delta: sum of `do` times the first output over d, [R, P].
    """
    rows, length, width = q.shape
    scale = 1 / math.sqrt(width)
    queries, keys, values, outputs = (split(a, SIDE) for a in (q, k, v, do))
    sums, deltas = (split(a[..., None], SIDE)[..., 0] for a in (lse, delta))
    ids = _ids(segments)
    ends = ids.min((1, 2)), ids.max((1, 2))
    n, _, side, _ = queries.shape

    def of_keys(dq_t, part):
        k_c, v_c, id_k, *ends_k = part

        def add(carry, part):
            q_c, do_c, lse_c, delta_c, id_q, low, high, dq_c = part

            def update(carry):
                dk, dv, dq_c = carry
                s = matmul(k_c * scale, q_c.swapaxes(1, 2))  # [R, keys, queries]
                p = jnp.where(same(id_k, id_q), jnp.exp(s - lse_c[:, None]), 0)
                ds = p * (matmul(v_c, do_c.swapaxes(1, 2)) - delta_c[:, None])
                p, ds = p.astype(q.dtype), ds.astype(q.dtype)
                # dq transposed, see attention.py.
                dq_c += lax.dot_general(
                    k_c,
                    ds,
                    (((1,), (1,)), ((0,), (0,))),
                    preferred_element_type=jnp.float32,
                )
                return dk + matmul(ds, q_c), dv + matmul(p, do_c), dq_c

            carry = *carry, dq_c
            met = _meet((low, high), ends_k)
            *carry, dq_c = lax.cond(met, update, lambda c: c, carry)
            return tuple(carry), dq_c

        zero = jnp.zeros((rows, side, width), jnp.float32)
        parts = (queries, outputs, sums, deltas, ids, *ends, dq_t)
        (dk, dv), dq_t = lax.scan(add, (zero, zero), parts)
        return dq_t, (dk * scale, dv)

    zero = jnp.zeros((n, rows, width, side), jnp.float32)
    dq_t, (dk, dv) = lax.scan(of_keys, zero, (keys, values, ids, *ends))
    dq = dq_t.swapaxes(2, 3) * scale
    return tuple(merge(a, length).astype(q.dtype) for a in (dq, dk, dv))


def split(a: Shaped[Array, "R P d"], size: int) -> Shaped[Array, "n R size d"]:
    """Splits the tokens into chunks, the last one zero-padded."""
    rows, length, width = a.shape
    n = -(-length // size)
    if n * size > length:  # an empty pad would remain in exported graphs
        a = jnp.pad(a, ((0, 0), (0, n * size - length), (0, 0)))
    return a.reshape(rows, n, size, width).swapaxes(0, 1)


def merge(a: Shaped[Array, "n R size ..."], length: int) -> Shaped[Array, "R P ..."]:
    """Undoes `split`."""
    n, rows, size = a.shape[:3]
    return a.swapaxes(0, 1).reshape(rows, n * size, *a.shape[3:])[:, :length]


def same(a: Int[Array, "R p"], b: Int[Array, "R q"]) -> Bool[Array, "R p q"]:
    """Whether two tokens are of one segment."""
    return a[:, :, None] == b[:, None, :]


def matmul(a: Float[Array, "R p n"], b: Float[Array, "R n q"]) -> Float[Array, "R p q"]:
    """Batched matrix product, accumulated in float32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _ids(segments: Int[Array, "R P"]) -> Int[Array, "n R side"]:
    """Segments in tiles; the padding is the last segment, so that it stays sorted."""
    last = jnp.iinfo(segments.dtype).max
    return split(segments[..., None] - last, SIDE)[..., 0] + last


def _meet(a, b):
    """Whether two intervals of segments overlap."""
    return (a[0] <= b[1]) & (b[0] <= a[1])
