"""Rules that point without a model: by place, brightness, stain and edges.

A map that lies on structures no better than these has shown nothing of the model.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from fof_jax.explainers.base import Query
from fof_jax.models.vit_classifier import ViTClassifier

LUMA = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601
# Optical density of hematoxylin, eosin and DAB in red, green, blue: Ruifrok and
# Johnston, Quantification of histochemical staining by color deconvolution (2001).
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
_LENGTHS = np.linalg.norm(STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(np.array(STAINS) / _LENGTHS)
_HEMATOXYLIN = _UNMIX[:, 0].astype(np.float32)


def center(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Falls with the distance from the center of the image."""
    h, w = model.encoder.grid
    y, x = (jnp.abs(jnp.arange(n) - (n - 1) / 2) for n in (h, w))
    near = jnp.hypot(float(h), float(w)) - jnp.hypot(y[:, None], x[None])
    return jnp.broadcast_to(near, (len(query.pixels), h, w))


def darkest(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Mean darkness, 255 minus luma."""
    return patch_mean(255 - luma(query.pixels), model.encoder.grid)


def hematoxylin(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Mean amount of hematoxylin by color deconvolution, 0 at the least of the image.

    Source: Ruifrok and Johnston (2001).
    """
    density = -jnp.log((query.pixels.astype(jnp.float32) + 1) / 256)
    amount = patch_mean(density @ jnp.asarray(_HEMATOXYLIN), model.encoder.grid)
    return amount - amount.min(axis=(1, 2), keepdims=True)


def edges(model: ViTClassifier, query: Query) -> Float[Array, "B h w"]:
    """Mean magnitude of the gradient of luma, by central differences."""
    dy, dx = jnp.gradient(luma(query.pixels), axis=(1, 2))
    return patch_mean(jnp.hypot(dy, dx), model.encoder.grid)


def luma(pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W"]:
    """Brightness, 0-255."""
    return pixels.astype(jnp.float32) @ jnp.array(LUMA, jnp.float32)


def patch_mean(
    values: Float[Array, "B H W"], grid: tuple[int, int]
) -> Float[Array, "B h w"]:
    """Mean over each patch."""
    (b, height, width), (h, w) = values.shape, grid
    return values.reshape(b, h, height // h, w, width // w).mean(axis=(2, 4))
