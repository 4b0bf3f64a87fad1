"""Chunked attention against the reference implementation, forward and backward.

Tolerance: 1e-5 of the maximum in float32, 2e-2 in bfloat16 (eight bits of mantissa).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from fof_jax.models import attention, segment_tiles
from tests.support.compiled import run


def qkv(length, width=8, heads=2, batch=2, dtype=jnp.float32, seed=0):
    shape = (4, batch, heads, length, width)
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return [jnp.asarray(2 * a, dtype) for a in drawn]


def value_and_gradients(function, q, k, v, weight):
    def scalar(q, k, v):
        return (function(q, k, v).astype(jnp.float32) * weight).sum()

    return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2)))(q, k, v)


def assert_close(got, expected, tolerance):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def small_tiles(monkeypatch, query, key, group=4):
    """Sets tiles of `group` rows with `query` and `key` tokens."""
    sizes = {attention.QUERY_TILE: query, attention.KEY_TILE: key}
    monkeypatch.setattr(segment_tiles, "SIDE", query)
    monkeypatch.setattr(
        attention,
        "tile_shape",
        lambda elements, rows, length: (group, min(sizes[elements], length)),
    )


@pytest.mark.parametrize("length", [1, 7, 32, 45])
@pytest.mark.parametrize("tiles", [(16, 8), (8, 16, 1), (64, 64, 2)])
def test_all_tile_shapes_agree_with_naive(monkeypatch, length, tiles):
    small_tiles(monkeypatch, *tiles)
    q, k, v, weight = qkv(length)
    expected = value_and_gradients(attention.naive, q, k, v, weight)
    got = value_and_gradients(attention.chunked, q, k, v, weight)
    ours, wanted = (run(f, q, k, v) for f in (attention.chunked, attention.naive))
    assert_close(ours, wanted, 1e-5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # With one token the softmax is constant: gradients of q and k are exactly 0.
        if np.any(b):
            assert_close(a, b, 1e-5)
        else:
            np.testing.assert_allclose(a, np.zeros_like(a), atol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 45])
@pytest.mark.parametrize("tiles", [(16, 8), (64, 64, 2)])
@pytest.mark.parametrize("order", [np.array, np.sort])
def test_segments_in_all_tile_shapes_agree_with_naive(
    monkeypatch, length, tiles, order
):
    small_tiles(monkeypatch, *tiles)
    q, k, v, weight = qkv(length)
    drawn = np.random.default_rng(0).integers(0, 3, (2, length)).astype(np.int32)
    segments = order(drawn)
    naive, chunked = (
        functools.partial(f, segments=jnp.asarray(segments))
        for f in (attention.naive, attention.chunked)
    )
    expected = value_and_gradients(naive, q, k, v, weight)
    got = value_and_gradients(chunked, q, k, v, weight)
    assert_close(chunked(q, k, v), naive(q, k, v), 1e-5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if np.abs(b).max() > 1e-5:
            assert_close(a, b, 1e-5)
        else:
            np.testing.assert_allclose(a, np.zeros_like(a), atol=1e-5)


def test_a_token_attends_within_its_segment_only():
    """Against NumPy, each segment as a sequence of its own."""
    q, k, v, _ = (np.asarray(a, np.float64) for a in qkv(9))
    segments = np.array([[0, 1, 0, 1, 1, 0, 0, 1, 0], [2] * 8 + [5]], np.int32)
    want = np.zeros_like(q)
    for b, heads in np.ndindex(q.shape[:2]):
        for segment in set(segments[b]):
            own = np.flatnonzero(segments[b] == segment)
            s = q[b, heads, own] @ k[b, heads, own].T / np.sqrt(q.shape[-1])
            p = np.exp(s - s.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            want[b, heads, own] = p @ v[b, heads, own]
    for name in ("naive", "chunked"):
        got = attention.attention(
            *(jnp.asarray(a, jnp.float32) for a in (q, k, v)),
            segments=jnp.asarray(segments),
            implementation=name,
        )
        assert_close(got, want, 1e-5)


def test_the_mask_of_cudnn_is_that_of_the_segments(monkeypatch):
    """On the CPU the same call runs in XLA; without cuDNN its mask is all of it."""
    original = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *a, implementation, **k: original(*a, **k),
    )
    q, k, v, _ = qkv(37)
    segments = jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 37)), jnp.int32)
    assert_close(
        attention.cudnn(q, k, v, segments), attention.naive(q, k, v, segments), 1e-5
    )


@pytest.mark.parametrize("segmented", [False, True])
def test_pallas_in_interpret_mode_agrees_with_naive(segmented):
    """Padded to 128 tokens; the backward pass needs a TPU."""
    q, k, v, _ = qkv(37, width=64)
    segments = None
    if segmented:
        segments = jnp.asarray(
            np.random.default_rng(1).integers(0, 3, (2, 37)), jnp.int32
        )
    with pltpu.force_tpu_interpret_mode():
        output = attention.pallas(q, k, v, segments)
    assert_close(output, attention.naive(q, k, v, segments), 1e-5)


def test_tiles_between_two_segments_are_skipped(monkeypatch):
    """NaN in a value would reach every query whose tile of scores is computed."""
    small_tiles(monkeypatch, 8, 8, 1)
    q, k, v, weight = (a[:1, :1] for a in qkv(32))
    segments = jnp.asarray([[0] * 8 + [1] * 12 + [2] * 12], jnp.int32)
    broken = v.at[:, :, :8].set(jnp.nan)

    def scalar(q, k, v):
        out = attention.chunked(q, k, v, segments)
        return (out * weight).at[:, :, :8].set(0).sum()

    value, gradients = jax.value_and_grad(scalar, argnums=(0, 1, 2))(q, k, broken)
    assert np.isfinite(value)
    own = slice(8, None)
    _, want = jax.value_and_grad(scalar, argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(gradients, want, strict=True):
        assert_close(a[:, :, own], b[:, :, own], 1e-6)


def test_tile_shape_respects_the_limit_and_divides_the_rows():
    for rows, length in ((3, 4096), (6, 4097), (12, 196), (5, 300), (1, 1)):
        group, tokens = attention.tile_shape(2**20, rows, length)
        assert rows % group == 0
        assert group * tokens * length <= 2**20
        assert group == 1 or tokens == length
    assert attention.tile_shape(2**21, 3, 4096) == (1, 512)
    assert attention.tile_shape(2**21, 12, 196) == (12, 196)


def test_very_negative_scores_do_not_overflow_in_a_padded_chunk(monkeypatch):
    small_tiles(monkeypatch, 8, 8)
    q, k, v, weight = qkv(11)
    # Every score far below 0: exp(-lse) would be inf.
    k = jnp.full(k.shape, -40.0)
    q = jnp.asarray(np.abs(q) + 1)
    value, gradients = value_and_gradients(attention.chunked, q, k, v, weight)
    assert all(np.isfinite(a).all() for a in (value, *gradients))


def test_bfloat16_keeps_its_dtype_and_is_close_to_float32():
    q, k, v, weight = qkv(40, dtype=jnp.bfloat16)
    got = run(attention.chunked, q, k, v)
    assert got.dtype == jnp.bfloat16
    exact = run(attention.naive, *(a.astype(jnp.float32) for a in (q, k, v)))
    assert_close(got, exact, 2e-2)
    for a in value_and_gradients(attention.chunked, q, k, v, weight)[1]:
        assert a.dtype == jnp.bfloat16
        assert np.isfinite(a.astype(jnp.float32)).all()


def test_memory_is_linear_in_the_number_of_tokens():
    def temporary_bytes(length):
        q, k, v, weight = qkv(length, batch=1)
        scalar = jax.grad(lambda q: (attention.chunked(q, k, v) * weight).sum())
        compiled = jax.jit(scalar).lower(q).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Chunks have a fixed number of scores for large P; naive would grow 16-fold.
    assert temporary_bytes(32768) < 6 * temporary_bytes(8192)


def test_default_implementations():
    assert attention.select_implementation("cpu", jnp.float32, 64) == "chunked"
    assert attention.select_implementation("gpu", jnp.float32, 64) == "chunked"
    assert attention.select_implementation("gpu", jnp.bfloat16, 64) == "cudnn"
    assert attention.select_implementation("gpu", jnp.bfloat16, 60) == "chunked"
    assert attention.select_implementation("tpu", jnp.bfloat16, 64) == "pallas"


def test_unknown_implementation_is_an_error():
    q, k, v, _ = qkv(4)
    with pytest.raises(ValueError, match="implementation 'flash'. Expected 'auto'"):
        attention.attention(q, k, v, implementation="flash")
