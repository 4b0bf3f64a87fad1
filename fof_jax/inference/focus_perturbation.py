"""What focus changes of a network and of its images: shuffled blocks, blank patches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.types import Params, Variables

FILLS = ("mean", "blur")
SEED = 11
# Standard deviation of the blur, as a fraction of the image's side: RISE uses 5 to 10
# pixels of 224.
BLUR = 1 / 22


def shuffle_blocks(variables: Variables, method: Any) -> Variables:
    """The variables with the entries of every weight of the blocks permuted.

    Each tensor of each block keeps its values and loses their order: what the blocks
    have learned is gone, their scale is not. Embeddings and classifier stay.

    Args:
      variables: of a trained model.
      method: the model's; `vit_classifier` finds the encoder's parameters.

    Source: Adebayo et al., Sanity checks for saliency maps (NeurIPS 2018).
    """
    blocks = method.vit_classifier(variables).params["blocks"]
    keys = iter(jax.random.split(jax.random.key(SEED), len(jax.tree.leaves(blocks))))

    def shuffle(stack: jax.Array) -> jax.Array:
        each = jax.random.split(next(keys), len(stack))
        flat = stack.reshape(len(stack), -1)
        return jax.vmap(jax.random.permutation)(each, flat).reshape(stack.shape)

    shuffled = jax.tree.map(shuffle, blocks)
    params = _replace(variables.params, blocks, shuffled)
    if params is None:
        raise ValueError(
            "focus: the blocks of the encoder are not among the parameters"
        )
    return dataclasses.replace(variables, params=params)


def _replace(tree: Params, old: Params, new: Params) -> Params | None:
    """The tree with one of its subtrees, the same object, replaced; None without it."""
    if tree is old:
        return new
    if isinstance(tree, dict):
        for name, branch in tree.items():
            replaced = _replace(branch, old, new)
            if replaced is not None:
                return {**tree, name: replaced}
    return None


def blank_images(
    image: Float[Array, "B H W C"], fill: str, side: int
) -> Float[Array, "B H W C"]:
    """What stands in hidden patches.

    Args:
      image: normalized.
      fill: "mean" is each image's mean color; "blur" the image under a Gaussian blur.
      side: of the image in pixels; scales the blur.
    """
    if fill == "mean":
        return jnp.broadcast_to(image.mean(axis=(1, 2), keepdims=True), image.shape)
    sigma = side * BLUR
    radius = max(1, int(3 * sigma))
    x = jnp.arange(-radius, radius + 1)
    kernel = jnp.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in (1, 2):
        pad = [(radius, radius) if k == axis else (0, 0) for k in range(4)]
        padded = jnp.pad(image, pad, mode="edge")
        moved = jnp.moveaxis(padded, axis, -1)
        rows = moved.reshape(-1, moved.shape[-1])
        blurred = jax.vmap(lambda row: jnp.convolve(row, kernel, mode="valid"))(rows)
        image = jnp.moveaxis(blurred.reshape(*moved.shape[:-1], -1), -1, axis)
    return image
