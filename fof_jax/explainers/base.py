"""What an explainer is given, what it returns, and how that becomes a map."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from fof_jax.methods.paper import cam
from fof_jax.models.vit_classifier import ViTClassifier


@flax.struct.dataclass
class Query:
    """Images, and the class whose evidence is sought in each.

    Attributes:
      pixels: as the loader gives them, 0-255.
      image: the same, normalized, as the network reads it.
      target: class index.
      index: number of the image; keys what is random.
    """

    pixels: UInt8[Array, "B H W 3"]
    image: Float[Array, "B H W C"]
    target: Int[Array, " B"]
    index: Int[Array, " B"]


# Signed evidence for the target in every patch, [B, h, w]; the scale is free.
Explain = Callable[[ViTClassifier, Query], Float[Array, "B h w"]]


class NotAvailable(ValueError):
    """The model lacks what an explainer needs; the message says what."""


def to_map(
    evidence: Float[Array, "B h w"], image_size: tuple[int, int]
) -> Float[Array, "B H W"]:
    """Evidence to a map in [0, 1], as Eq. (1) does: ReLU, bilinear, min-max (P2, P3).

    Args:
      evidence: per patch; what speaks against the class is cut off.
      image_size: H, W.

    Returns:
      The map; 0 where there is no positive or no varying evidence.
    """
    return cam.min_max(cam.upsample(jax.nn.relu(evidence), image_size=image_size))


def target_score(
    logits: Float[Array, "B K"], target: Int[Array, " B"]
) -> Float[Array, ""]:
    """Sum of each image's logit of its target.

    Images do not interact, so the gradient of the sum is each one's own.
    """
    return jnp.take_along_axis(logits, target[:, None], axis=1).sum()
