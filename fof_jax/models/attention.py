"""Exact softmax attention that never stores the P x P matrix of probabilities.

The forward pass runs over chunks of queries and keeps q, k, v, the output o and the
log-sum-exp of each row; the backward pass recomputes probabilities over chunks of
keys, so that dk and dv are written once a chunk and only dq is accumulated. Memory
is linear in P. On accelerators a fused kernel takes over where one fits; `choose`
is the one place that decides.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

IMPLEMENTATIONS = ("chunked", "cudnn", "pallas", "naive")
# What the forward rule names for rematerialisation policies.
SAVED_NAMES = ("q", "k", "v", "o", "lse")
OUTPUT_NAMES = ("o", "lse")

# Scores that are in memory at once, forward and backward: 512 queries and 256 keys at
# P = 4096, the fastest of 64 … 2048 on two CPU cores (docs/performance.md).
QUERY_TILE = 512 * 4096
KEY_TILE = 256 * 4096

Tile = tuple[int, int]  # rows (images times heads) and queries (or keys) at a time
Heads = Float[Array, "B heads P d"]


def choose(platform: str, dtype: Any, head_width: int) -> str:
    """Names the implementation that runs where nobody asked for one.

    | platform | dtype | width of a head | implementation |
    |---|---|---|---|
    | gpu | bf16, fp16 | multiple of 8, at most 128 | `cudnn` |
    | gpu | other | any | `chunked` |
    | tpu | bf16, fp32 | any | `pallas` |
    | cpu and other | any | any | `chunked` |

    Args:
      platform: `jax.default_backend()`: "cpu", "gpu" (or "cuda") or "tpu".
      dtype: of q, k and v.
      head_width: d.
    """
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    if platform in ("gpu", "cuda") and half:
        if head_width % 8 == 0 and head_width <= 128:
            return "cudnn"
    if platform == "tpu":
        return "pallas"
    return "chunked"


@jax.named_scope("attention")
def attention(q: Heads, k: Heads, v: Heads, *, implementation: str = "auto") -> Heads:
    """softmax(q k^T / sqrt(d)) v, for every image and head.

    Args:
      q, k, v: queries, keys and values.
      implementation: one of `IMPLEMENTATIONS`, or "auto" for `choose`.

    Returns:
      The same shape and dtype as q. Probabilities are computed in float32.

    Raises:
      ValueError: `implementation` is not known.
    """
    if implementation == "auto":
        implementation = choose(jax.default_backend(), q.dtype, q.shape[-1])
    if implementation not in _TABLE:
        raise ValueError(
            f"attention: implementation {implementation!r} is not known. Expected "
            f"'auto' or one of {', '.join(IMPLEMENTATIONS)}."
        )
    return _TABLE[implementation](q, k, v)


def naive(q: Heads, k: Heads, v: Heads) -> Heads:
    """The textbook form, P x P in memory: what the others are compared with."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k).astype(jnp.float32)
    p = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bhqk,bhkd->bhqd", p.astype(q.dtype), v)


def chunked(q: Heads, k: Heads, v: Heads) -> Heads:
    """Chunked attention with its own backward pass; any P."""
    *lead, length, width = q.shape
    rows = math.prod(lead)
    flat = [a.reshape(rows, length, width) for a in (q, k, v)]
    out = _chunked(tile(QUERY_TILE, rows, length), tile(KEY_TILE, rows, length), *flat)
    return out.reshape(q.shape)


def tile(elements: int, rows: int, length: int) -> Tile:
    """How many rows and how many of their queries (or keys) run at a time.

    One row at a time where its scores alone exceed `elements`: two-dimensional
    products are a tenth faster than batched ones on a CPU. Several whole rows where
    they fit, because then the loop's own cost is what counts.

    Args:
      elements: floats that a tile of scores may hold.
      rows: images times heads.
      length: P.

    Returns:
      Rows, a divisor of all of them, and tokens, a power of two or P.
    """
    fit = max(elements // length**2, 1)
    group = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fit)
    if fit > 1 or length**2 <= elements:
        return group, length
    return group, min(2 ** int(math.log2(max(elements // length, 16))), length)


def _by_rows(group: int, work: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Applies `work` to `group` rows at a time."""
    rows = arrays[0].shape[0]
    if group == rows:
        return work(*arrays)
    cut = [a.reshape(rows // group, group, *a.shape[1:]) for a in arrays]
    out = lax.map(lambda part: work(*part), cut)
    return jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), out)


def _into_chunks(a: Float[Array, "R P d"], size: int) -> Float[Array, "n R size d"]:
    """Cuts the tokens into chunks, the last one filled up with zeros."""
    rows, length, width = a.shape
    n = -(-length // size)
    if n * size > length:  # a pad by nothing is an operation still, for converters
        a = jnp.pad(a, ((0, 0), (0, n * size - length), (0, 0)))
    return a.reshape(rows, n, size, width).swapaxes(0, 1)


def _from_chunks(a: jax.Array, length: int) -> jax.Array:
    n, rows, size = a.shape[:3]
    return a.swapaxes(0, 1).reshape(rows, n * size, *a.shape[3:])[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(query_tile: Tile, key_tile: Tile, q, k, v):
    return _forward(query_tile, q, k, v)[0]


def _forward(query_tile: Tile, q, k, v):
    group, chunk = query_tile
    return _by_rows(group, functools.partial(_forward_rows, chunk), q, k, v)


def _forward_rows(chunk: int, q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    k_t = k.swapaxes(1, 2)  # [R, d, P]

    def one(q_c):  # [R, chunk, d]
        s = _matmul(q_c * scale, k_t)  # [R, chunk, P]
        top = s.max(-1, keepdims=True)
        p = jnp.exp(s - top)
        total = p.sum(-1, keepdims=True)
        o = _matmul(p.astype(v.dtype), v) / total
        return o.astype(v.dtype), (top + jnp.log(total))[..., 0]

    if chunk == q.shape[1]:  # one chunk: a loop would only cost compile time
        return one(q)
    o, lse = lax.map(one, _into_chunks(q, chunk))
    return _from_chunks(o, q.shape[1]), _from_chunks(lse, q.shape[1])


def _matmul(a, b):
    """Batched product, accumulated in float32 whatever the inputs."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _chunked_fwd(query_tile: Tile, key_tile: Tile, q, k, v):
    # Named before use, so that a policy that keeps these five recomputes nothing here.
    q, k, v = (checkpoint_name(a, n) for a, n in zip((q, k, v), "qkv", strict=True))
    o, lse = _forward(query_tile, q, k, v)
    o, lse = checkpoint_name(o, "o"), checkpoint_name(lse, "lse")
    return o, (q, k, v, o, lse)


def _chunked_bwd(query_tile: Tile, key_tile: Tile, saved, do):
    q, k, v, o, lse = saved
    group, chunk = key_tile
    delta = (do.astype(jnp.float32) * o.astype(jnp.float32)).sum(-1)  # [R, P]
    work = functools.partial(_backward_rows, chunk)
    return _by_rows(group, work, q, k, v, do, lse, delta)


def _backward_rows(chunk: int, q, k, v, do, lse, delta):
    rows, length, width = q.shape
    scale = 1 / math.sqrt(width)
    q_t, do_t = q.swapaxes(1, 2), do.swapaxes(1, 2)  # [R, d, P]
    padded = length % chunk != 0

    def one(dq_t, part):
        k_c, v_c, first = part  # [R, chunk, d]
        # Every product runs on a [chunk, P] tile. A contraction over the first axis
        # of such a tile is slow in XLA's CPU GEMM, so dq is accumulated transposed.
        p = jnp.exp(_matmul(k_c * scale, q_t) - lse[:, None, :])  # [R, chunk, P]
        if padded:
            real = (first + jnp.arange(chunk)) < length
            p = jnp.where(real[None, :, None], p, 0)
        ds = p * (_matmul(v_c, do_t) - delta[:, None, :])
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        dq_t += lax.dot_general(
            k_c, ds, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32
        )  # [R, d, P]
        return dq_t, (_matmul(ds, q) * scale, _matmul(p, do))

    zero = jnp.zeros((rows, width, length), jnp.float32)
    if chunk == length:
        dq_t, (dk, dv) = one(zero, (k, v, 0))
    else:
        k_cs, v_cs = _into_chunks(k, chunk), _into_chunks(v, chunk)
        firsts = jnp.arange(k_cs.shape[0]) * chunk
        dq_t, (dk, dv) = lax.scan(one, zero, (k_cs, v_cs, firsts))
        dk, dv = _from_chunks(dk, length), _from_chunks(dv, length)
    dq = dq_t.swapaxes(1, 2) * scale
    return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def cudnn(q: Heads, k: Heads, v: Heads) -> Heads:
    """cuDNN's fused attention; NVIDIA GPUs, bf16 or fp16."""
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, P, heads, d]
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return out.swapaxes(1, 2)


def pallas(q: Heads, k: Heads, v: Heads) -> Heads:
    """The Pallas flash kernel for TPUs; P is padded to a multiple of 128 and masked."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    batch, _, length, width = q.shape
    fill = -length % 128
    segments = None
    if fill:
        q, k, v = (jnp.pad(a, ((0, 0), (0, 0), (0, fill), (0, 0))) for a in (q, k, v))
        # Tokens attend within their own segment: padding is a segment of its own.
        ids = (jnp.arange(length + fill) >= length).astype(jnp.int32)
        ids = jnp.broadcast_to(ids[None], (batch, length + fill))
        segments = flash.SegmentIds(q=ids, kv=ids)
    out = flash.flash_attention(
        q, k, v, segment_ids=segments, sm_scale=1 / math.sqrt(width)
    )
    return out[:, :, :length]


_TABLE: dict[str, Callable[[Heads, Heads, Heads], Heads]] = {
    "chunked": chunked,
    "cudnn": cudnn,
    "pallas": pallas,
    "naive": naive,
}
