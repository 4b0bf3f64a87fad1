"""Colour of images in [0, 1]: jitter, hue, luma, standardised greyscale."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Number = float | int

# ITU-R BT.601: what PIL's mode L and torchvision use.
LUMA = (0.299, 0.587, 0.114)


def recolour(
    image: Float[Array, "H W C"],
    key: jax.Array,
    *,
    brightness: Number,
    contrast: Number,
    saturation: Number,
    hue: Number,
) -> Float[Array, "H W C"]:
    """Jitter the colours: brightness, contrast, saturation, hue, clipped after each.

    Args:
      image: [0, 1]; three channels, or one for greyscale, which has no saturation
        and no hue to alter.
      key: the draw.
      brightness: factor from [1 - brightness, 1 + brightness].
      contrast: likewise, about the mean luma of the image.
      saturation: likewise, about each pixel's luma.
      hue: turn of the hue circle from [-hue, hue].

    Returns:
      The image, in [0, 1].
    """
    # One draw of all numbers: every call of the generator is compiled anew.
    u = jax.random.uniform(key, (4,), minval=-1.0)
    coloured = image.shape[-1] == 3
    if brightness:
        image = jnp.clip(image * (1 + brightness * u[0]), 0, 1)
    if contrast:
        middle = jnp.mean(luma(image) if coloured else image)
        image = jnp.clip(middle + (1 + contrast * u[1]) * (image - middle), 0, 1)
    if saturation and coloured:
        grey = luma(image)  # [H, W, 1]
        image = jnp.clip(grey + (1 + saturation * u[2]) * (image - grey), 0, 1)
    if hue and coloured:
        image = turn_hue(image, hue * u[3])
    return image


def turn_hue(
    image: Float[Array, "H W 3"], turn: Float[Array, ""]
) -> Float[Array, "H W 3"]:
    """Turn the hue circle of HSV; value and chroma stay, greys stay as they are.

    Args:
      image: RGB in [0, 1].
      turn: share of the whole circle; 1/3 makes red green.

    Returns:
      RGB in [0, 1].
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    per = 1 / jnp.where(chroma > 0, chroma, 1.0)  # a grey has hue 0 and chroma 0
    # By order, not by `value == red`: XLA may compute a channel twice, rounded
    # differently, and a pixel that equals no channel would take the wrong third.
    sixth = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * per,
        jnp.where(green >= blue, 2 + (blue - red) * per, 4 + (red - green) * per),
    )
    sixth = sixth + 6 * turn

    def channel(shift):
        k = sixth + shift
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod takes five times as long on a CPU
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def luma(
    image: UInt8[Array, "H W 3"] | Float[Array, "H W 3"],
) -> Float[Array, "H W 1"]:
    """BT.601 luma of an RGB image [H, W, 3], in the image's own units, as float32."""
    image = image.astype(jnp.float32)
    red, green, blue = (weight * image[..., i] for i, weight in enumerate(LUMA))
    return (red + green + blue)[..., None]


def standardise(image: Float[Array, "H W 1"]) -> Float[Array, "H W 1"]:
    """Bring one image to mean 0 and deviation 1; a constant image becomes 0."""
    # From the first pixel on, so that a constant image has no rounding to divide by.
    image = image - image[:1, :1]
    image = image - jnp.mean(image)
    spread = jnp.sqrt(jnp.mean(jnp.square(image)))
    # One pixel of 1024 x 1024 that is one grey level off gives 4e-6; sampling a
    # constant image between its pixels gives 1e-7.
    flat = spread < 1e-6
    return jnp.where(flat, 0.0, image / jnp.where(flat, 1.0, spread))
