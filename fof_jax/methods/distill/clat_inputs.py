"""Inputs of both stages of CLAT: encoder features, omics, superpixels."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fof_jax.models.device_rows import DeviceRows, device_rows
from fof_jax.types import Batch, Params, State


def encode(
    encoder: nn.Module,
    params: Params,
    statistics: State,
    image: Float[Array, "B H W C"],
    *,
    train: bool,
    key: jax.Array | None = None,
    rows: DeviceRows | None = None,
) -> tuple[Float[Array, "B E"], State]:
    """An image encoder's features, and its batch statistics after them.

    Args:
      encoder: called as `encoder(image, train=...)`.
      params, statistics: of the encoder.
      image: normalized pixels.
      train: whether batch statistics are used.
      key: of dropout; None for an encoder without.
      rows: of this device, where it does not have the whole batch.
    """
    collections = {"params": params, "batch_stats": statistics}
    if not train:
        out: Any = encoder.apply(collections, image, train=False)
        return out, statistics
    rngs = {} if key is None else {"dropout": key}
    updated: Any
    with device_rows(*rows) if rows else contextlib.nullcontext():
        out, updated = encoder.apply(
            collections, image, train=True, rngs=rngs, mutable=["batch_stats"]
        )
    return out, dict(updated.get("batch_stats", statistics))


def init_encoder(
    encoder: nn.Module, key: jax.Array, batch: Batch
) -> tuple[Params, State, int]:
    """Parameters and batch statistics of an encoder, and its width."""
    image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
    variables: Any = encoder.init(key, image, train=False)
    params, statistics = variables["params"], dict(variables.get("batch_stats", {}))
    features, _ = jax.eval_shape(
        lambda p, s: encode(encoder, p, s, image, train=False), params, statistics
    )
    return params, statistics, features.shape[-1]


def omics_of(batch: Batch, row: str) -> Float[Array, "B M"]:
    """The standardized omics, 0 where unknown.

    Raises:
      ValueError: the batch has none.
    """
    if batch.omics is None:
        raise ValueError(
            f"{row}: the batch has no omics, expected float32 [B, M]. Add the omics "
            "columns to the data, or choose a row that reads the image alone."
        )
    if batch.omics_known is None:
        return jnp.asarray(batch.omics)
    return jnp.where(jnp.asarray(batch.omics_known), batch.omics, 0)


def superpixels_of(batch: Batch, row: str) -> Int[Array, "B H W"]:
    """The superpixel of each pixel.

    Raises:
      ValueError: the batch has none.
    """
    if batch.superpixels is None:
        raise ValueError(
            f"{row}: the batch has no superpixels, expected uint8 [B, H, W]. Read them "
            "with data.superpixels.open_maps."
        )
    return jnp.asarray(batch.superpixels, jnp.int32)
