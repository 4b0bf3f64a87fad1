"""Eq. (1) of the paper, at any block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.explainers.base import Explain, NotAvailable, Query
from fof_jax.methods.paper import cam
from fof_jax.models.vit_classifier import ViTClassifier


def at_block(block: int) -> Explain:
    """Eq. (1) on the patches after one block.

    Args:
      block: from -depth to -1, as `cam.block`: -1 is the last.
    """

    def explain(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
        ahead, patches, logits_of = split_at(model, query, block)
        del ahead
        gradient = cam.token_gradient(
            logits_of=logits_of, tokens=patches, target=query.target
        )
        return cam.weighted_sum(
            tokens=patches.astype(jnp.float32),
            gradient=gradient.astype(jnp.float32),
            grid=model.encoder.grid,
        )[1]

    return explain


def split_at(model: ViTClassifier, query: Query, block: int):
    """Tokens after a block, and the rest of the network as a function of the patches.

    Returns:
      The class token and registers [B, A, D], the patches [B, P, D], and the function
      of the patches that gives the logits [B, K].

    Raises:
      NotAvailable: there is no such block; or no patch is read after it.
    """
    if not -model.depth <= block < 0:
        raise NotAvailable(f"the encoder has {model.depth} blocks, none is {block}")
    if model.pools_class_token and block == -1:
        raise NotAvailable(
            "after the last block the class token alone is read: no patch has a "
            "gradient"
        )
    end = model.depth + block + 1
    tokens = model.run(model.embed(query.image), 0, end)
    ahead, patches = jnp.split(tokens, [model.num_prefix], axis=1)

    def logits_of(v: jax.Array) -> jax.Array:
        whole = jnp.concatenate([ahead, v], axis=1)  # [B, T, D]
        return model.logits_of(model.run(whole, end))

    return ahead, patches, logits_of
