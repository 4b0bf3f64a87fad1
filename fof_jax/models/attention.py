"""Exact softmax attention with memory linear in the number of tokens.

The forward pass iterates over chunks of queries and saves q, k, v, the output o and the
log-sum-exp of each row; the backward pass recomputes the probabilities over chunks of
keys, so that dk and dv are written once per chunk and only dq is accumulated. Long
sequences of several segments are in segment_tiles.py, which skips tiles. On
accelerators a fused kernel is used where available, see `select_implementation`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from fof_jax.models import segment_tiles
from fof_jax.models.segment_tiles import matmul, merge, same, split

IMPLEMENTATIONS = ("chunked", "cudnn", "pallas", "naive")
# Checkpoint names of the forward pass, for rematerialization policies.
SAVED_NAMES = ("q", "k", "v", "o", "lse")
OUTPUT_NAMES = ("o", "lse")

# Scores in memory at once, forward and backward: 512 queries and 256 keys at P = 4096,
# the fastest of 64 … 2048 on two CPU cores (docs/performance.md).
QUERY_TILE = 512 * 4096
KEY_TILE = 256 * 4096

Tile = tuple[int, int]  # rows (images times heads), queries (or keys)
Heads = Float[Array, "B heads P d"]
# Number of the sequence that a token belongs to; None for a single sequence.
Segments = Int[Array, "B P"] | None


def select_implementation(platform: str, dtype: Any, head_width: int) -> str:
    """Selects the default implementation.

    | platform | dtype | head width | implementation |
    |---|---|---|---|
    | gpu | bf16, fp16 | multiple of 8, at most 128 | `cudnn` |
    | gpu | other | any | `chunked` |
    | tpu | bf16, fp32 | any | `pallas` |
    | cpu, other | any | any | `chunked` |

    Args:
      platform: `jax.default_backend()`: "cpu", "gpu" (or "cuda") or "tpu".
      dtype: dtype of q, k and v.
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
def attention(
    q: Heads,
    k: Heads,
    v: Heads,
    *,
    segments: Segments = None,
    implementation: str = "auto",
) -> Heads:
    """Multi-head attention, softmax(q k^T / sqrt(d)) v per image and head.

    Args:
      q, k, v: queries, keys and values.
      segments: a token attends only to tokens of its own segment, itself included;
        segments need not be contiguous. None: to all.
      implementation: one of `IMPLEMENTATIONS`, or "auto" for the default.

    Returns:
      Array of the shape and dtype of q. Probabilities are computed in float32.

    Raises:
      ValueError: unknown implementation.
    """
    if implementation == "auto":
        platform = jax.default_backend()
        implementation = select_implementation(platform, q.dtype, q.shape[-1])
    if implementation not in _FUNCTIONS:
        raise ValueError(
            f"attention: unknown implementation {implementation!r}. Expected "
            f"'auto' or one of {', '.join(IMPLEMENTATIONS)}."
        )
    return _FUNCTIONS[implementation](q, k, v, segments)


def naive(q: Heads, k: Heads, v: Heads, segments: Segments = None) -> Heads:
    """Reference implementation, with the P x P matrix in memory."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k).astype(jnp.float32)
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]  # [B, P, P]
        scores = jnp.where(same[:, None], scores, -jnp.inf)
    p = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bhqk,bhkd->bhqd", p.astype(q.dtype), v)


def chunked(q: Heads, k: Heads, v: Heads, segments: Segments = None) -> Heads:
    """Chunked attention with a custom backward pass, for any P."""
    *lead, length, width = q.shape
    if segments is not None:  # a row per image and head, like the tokens
        segments = jnp.repeat(segments, lead[-1], axis=0)
    rows = math.prod(lead)
    flat = [a.reshape(rows, length, width) for a in (q, k, v)]
    query_tile = tile_shape(QUERY_TILE, rows, length)
    key_tile = tile_shape(KEY_TILE, rows, length)
    out = _chunked(query_tile, key_tile, *flat, segments)
    return out.reshape(q.shape)


def tile_shape(elements: int, rows: int, length: int) -> Tile:
    """Rows and queries (or keys) per tile of scores.

    One row at a time where its scores alone exceed `elements`: two-dimensional matrix
    products are a tenth faster than batched ones on a CPU. Otherwise several whole
    rows, because then the loop overhead dominates.

    Args:
      elements: maximum number of scores in a tile.
      rows: images times heads.
      length: P.

    Returns:
      Number of rows, which divides `rows`, and of tokens, a power of two or P.
    """
    max_rows = max(elements // length**2, 1)
    group = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= max_rows)
    if max_rows > 1 or length**2 <= elements:
        return group, length
    return group, min(2 ** int(math.log2(max(elements // length, 16))), length)


def _map_row_groups(group: int, fn: Callable[..., Any], *arrays: Any) -> Any:
    """Applies `fn` to `group` rows at a time; None stays None."""
    rows = arrays[0].shape[0]
    if group == rows:
        return fn(*arrays)
    groups = jax.tree.map(
        lambda a: a.reshape(rows // group, group, *a.shape[1:]), arrays
    )
    out = lax.map(lambda part: fn(*part), groups)
    return jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(query_tile: Tile, key_tile: Tile, q, k, v, segments):
    return _forward(query_tile, q, k, v, segments)[0]


def _forward(query_tile: Tile, q, k, v, segments):
    group, chunk = query_tile
    rows = functools.partial(_forward_rows, chunk)
    return _map_row_groups(group, rows, q, k, v, segments)


def _forward_rows(chunk: int, q, k, v, segments):
    if segments is not None and chunk < q.shape[1]:
        return segment_tiles.forward(q, k, v, segments)
    scale = 1 / math.sqrt(q.shape[-1])
    k_t = k.swapaxes(1, 2)  # [R, d, P]

    def attend(q_c):  # [R, chunk, d]
        s = matmul(q_c * scale, k_t)  # [R, chunk, P]
        if segments is not None:
            s = jnp.where(same(segments, segments), s, -jnp.inf)
        row_max = s.max(-1, keepdims=True)
        p = jnp.exp(s - row_max)
        total = p.sum(-1, keepdims=True)
        o = matmul(p.astype(v.dtype), v) / total
        return o.astype(v.dtype), (row_max + jnp.log(total))[..., 0]

    if chunk == q.shape[1]:  # one chunk: a loop would only add compile time
        return attend(q)
    o, lse = lax.map(attend, split(q, chunk))
    return merge(o, q.shape[1]), merge(lse, q.shape[1])


def _chunked_fwd(query_tile: Tile, key_tile: Tile, q, k, v, segments):
    # Named before use, so that a policy that saves all five recomputes nothing here.
    q, k, v = (checkpoint_name(a, n) for a, n in zip((q, k, v), "qkv", strict=True))
    o, lse = _forward(query_tile, q, k, v, segments)
    o, lse = checkpoint_name(o, "o"), checkpoint_name(lse, "lse")
    return o, (q, k, v, o, lse, segments)


def _chunked_bwd(query_tile: Tile, key_tile: Tile, saved, do):
    q, k, v, o, lse, segments = saved
    group, chunk = key_tile
    delta = (do.astype(jnp.float32) * o.astype(jnp.float32)).sum(-1)  # [R, P]
    backward = functools.partial(_backward_rows, chunk)
    gradients = _map_row_groups(group, backward, q, k, v, do, lse, delta, segments)
    return *gradients, None  # segments have no gradient


def _backward_rows(chunk: int, q, k, v, do, lse, delta, segments):
    rows, length, width = q.shape
    if segments is not None and chunk < length:
        return segment_tiles.backward(q, k, v, do, lse, delta, segments)
    scale = 1 / math.sqrt(width)
    q_t, do_t = q.swapaxes(1, 2), do.swapaxes(1, 2)  # [R, d, P]
    padded = length % chunk != 0

    def accumulate(dq_t, part):
        k_c, v_c, first = part  # [R, chunk, d]
        # All products are on [chunk, P] tiles. XLA's CPU GEMM is slow in contractions
        # over the first axis of such a tile, so dq is accumulated transposed.
        p = jnp.exp(matmul(k_c * scale, q_t) - lse[:, None, :])  # [R, chunk, P]
        if segments is not None:
            p = jnp.where(same(segments, segments), p, 0)
        if padded:
            valid = (first + jnp.arange(chunk)) < length
            p = jnp.where(valid[None, :, None], p, 0)
        ds = p * (matmul(v_c, do_t) - delta[:, None, :])
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        dq_t += lax.dot_general(
            k_c, ds, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32
        )  # [R, d, P]
        return dq_t, (matmul(ds, q) * scale, matmul(p, do))

    zero = jnp.zeros((rows, width, length), jnp.float32)
    if chunk == length:
        dq_t, (dk, dv) = accumulate(zero, (k, v, 0))
    else:
        k_cs, v_cs = split(k, chunk), split(v, chunk)
        firsts = jnp.arange(k_cs.shape[0]) * chunk
        dq_t, (dk, dv) = lax.scan(accumulate, zero, (k_cs, v_cs, firsts))
        dk, dv = merge(dk, length), merge(dv, length)
    dq = dq_t.swapaxes(1, 2) * scale
    return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def cudnn(q: Heads, k: Heads, v: Heads, segments: Segments = None) -> Heads:
    """Fused attention of cuDNN, for NVIDIA GPUs in bf16 or fp16."""
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, P, heads, d]
    mask = None if segments is None else same(segments, segments)[:, None]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return out.swapaxes(1, 2)


def pallas(q: Heads, k: Heads, v: Heads, segments: Segments = None) -> Heads:
    """Pallas flash attention for TPUs; P is padded to a multiple of 128 and masked."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    batch, _, length, width = q.shape
    pad = -length % 128
    if pad:
        q, k, v = (jnp.pad(a, ((0, 0), (0, 0), (0, pad), (0, 0))) for a in (q, k, v))
        # The padding is a segment of its own, and real segments are never below 0.
        real = jnp.zeros((batch, length), jnp.int32) if segments is None else segments
        segments = jnp.pad(real, ((0, 0), (0, pad)), constant_values=-1)
    ids = None if segments is None else flash.SegmentIds(q=segments, kv=segments)
    out = flash.flash_attention(q, k, v, segment_ids=ids, sm_scale=1 / math.sqrt(width))
    return out[:, :, :length]


_FUNCTIONS: dict[str, Callable[..., Heads]] = {
    "chunked": chunked,
    "cudnn": cudnn,
    "pallas": pallas,
    "naive": naive,
}
