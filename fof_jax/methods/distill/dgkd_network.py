"""DGKD's network of three branches, and one pass of it in training mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fof_jax.methods.fusion.network import ImageProjection, Network, NetworkOutput
from fof_jax.methods.fusion.pathomic import KroneckerFusion
from fof_jax.models.device_rows import device_rows
from fof_jax.models.omics import MaxNet
from fof_jax.types import Params, State

BRANCHES = ("fuse", "image", "omics")
OMICS = "omics_network"


def network(
    *,
    encoder: nn.Module,
    num_classes: int,
    features: int = 128,
    fused: int = 128,
    rate: float = 0.1,
    cut_gradient: bool = True,
    widths: tuple[int, ...] = (64, 48, 32),
) -> Network:
    """The three branches.

    Args:
      encoder: called as `encoder(image, train=...)`, gives [B, C].
      num_classes: K.
      features: width of the image's and the omics' feature.
      fused: width of the fused feature.
      rate: of every dropout.
      cut_gradient: whether the fusion's gradient stops at the two features.
      widths: of the omics network's layers before its feature.

    Source: METHODS.md 5.0 (X22), 5.7 (stage 1).
    """
    return Network(
        image_encoder=encoder,
        projection=ImageProjection(features, batch_norm=True),
        omics_network=MaxNet(features, num_classes, rate, rectify=True, widths=widths),
        fusion=KroneckerFusion(
            features=fused,
            num_classes=num_classes,
            rate=rate,
            gates=(True, True),
            scales=(1, 1),
            batch_norm=True,
        ),
        image_classes=num_classes,
        cut_gradient=cut_gradient,
    )


def forward_train(
    network: Network,
    params: Params,
    statistics: State,
    image: Float[Array, "B H W C"],
    omics: Float[Array, "B M"],
    gather: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    index: Int[Array, " B"] | None = None,
) -> tuple[NetworkOutput, State]:
    """One copy of the network in training mode, on the global batch.

    Args:
      network: of `network`.
      params, statistics: of the copy.
      image, omics: of this device's rows.
      gather: local rows to the rows of all devices.
      key: of the dropout.
      index: key of each row, by which the encoder's dropout is drawn.

    Returns:
      the outputs of all rows, and the statistics after them.

    Source: METHODS.md 5.7 (stage 1).
    """
    encode_key, fuse_key = jax.random.split(key)
    collections = {"params": params, "batch_stats": statistics}
    with device_rows(gather, index):
        features, updated = network.apply(
            collections,
            image,
            train=True,
            method="encode",
            rngs={"dropout": encode_key},
            mutable=["batch_stats"],
        )
    collections |= {"batch_stats": updated.get("batch_stats", statistics)}
    features, omics = jax.tree.map(gather, (features, omics))
    out: Any
    out, updated = network.apply(
        collections,
        features,
        omics,
        train=True,
        method="fuse",
        rngs={"dropout": fuse_key},
        mutable=["batch_stats"],
    )
    return out, dict(updated.get("batch_stats", collections["batch_stats"]))


def branch_logits(out: NetworkOutput) -> dict[str, Float[Array, "B K"]]:
    """Logits of the three branches by name."""
    logits = (out.fused.logits, out.image_logits, out.omics_logits)
    return {
        name: logit
        for name, logit in zip(BRANCHES, logits, strict=True)
        if logit is not None
    }


def omics_l1(params: Params) -> Float[Array, ""]:
    """Sum of absolute values of the omics branch.

    Args:
      params: of the network; biases and the branch's classifier are included.

    Source: methods/distillation_corrections.md 11, without its constant.
    """
    leaves = jax.tree.leaves(params[OMICS])
    return jnp.stack([jnp.abs(leaf).sum() for leaf in leaves]).sum()
