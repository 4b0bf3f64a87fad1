"""Color augmentation of images in [0, 1]: jitter, hue, luma, standardized greyscale."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Number = float | int

RGB_SHIFT = 15 / 255  # of full scale, docs/parity.md 45
# Optical densities of haematoxylin, eosin and a third, residual stain in red, green
# and blue: Ruifrok and Johnston (2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# ITU-R BT.601: what PIL's mode L and torchvision use.
LUMA = (0.299, 0.587, 0.114)


def augment_color(
    image: Float[Array, "H W C"],
    key: jax.Array,
    *,
    brightness: Number,
    contrast: Number,
    saturation: Number,
    hue: Number,
    stain: Number = 0.0,
    jitter: Number = 1.0,
    rgb_shift: Number = 0.0,
    channel_shuffle: Number = 0.0,
    brightness_contrast: Number = 0.0,
) -> Float[Array, "H W C"]:
    """Change the colors: stain, jitter, then the three others of the release.

    The jitter is brightness, contrast, saturation and hue in this order (the release
    shuffles them), clipped after each. Ours never round to whole grey levels between
    operations.

    Args:
      image: [0, 1]; three channels, or one for greyscale, which has no saturation
        and no hue to alter.
      key: the draw.
      brightness: factor from [1 - brightness, 1 + brightness].
      contrast: likewise, about the mean luma of the image.
      saturation: likewise, about each pixel's luma.
      hue: turn of the hue circle from [-hue, hue].
      stain: factor from [1 - stain, 1 + stain] on each stain's density.
      jitter: probability of the four above being done.
      rgb_shift: probability of up to 15 grey levels more or less in each channel.
      channel_shuffle: probability of the channels changing places.
      brightness_contrast: probability of the pixels times 0.8-1.2, plus up to 0.2.

    Returns:
      The image, in [0, 1].
    """
    has_color = image.shape[-1] == 3
    # One draw of all numbers: every call of the generator is compiled anew.
    more = jax.random.uniform(jax.random.fold_in(key, 1), (16,), minval=-1.0)
    chance = (more[:4] + 1) / 2
    if stain and has_color:
        image = restain(image, 1 + stain * more[4:7])
    if any((brightness, contrast, saturation, hue)):
        changed = _jittered(
            image,
            jax.random.uniform(key, (4,), minval=-1.0),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
        image = changed if jitter == 1 else _maybe(chance[0] < jitter, changed, image)
    if rgb_shift and has_color:
        changed = jnp.clip(image + (RGB_SHIFT * more[7:10]).reshape(1, 1, 3), 0, 1)
        image = _maybe(chance[1] < rgb_shift, changed, image)
    if channel_shuffle and has_color:
        order = jnp.argsort(more[10:13])
        image = _maybe(chance[2] < channel_shuffle, image[..., order], image)
    if brightness_contrast:
        changed = jnp.clip(image * (1 + 0.2 * more[13]) + 0.2 * more[14], 0, 1)
        image = _maybe(chance[3] < brightness_contrast, changed, image)
    return image


def _maybe(done, changed, image):
    return jnp.where(done, changed, image)


def _jittered(image, u, *, brightness, contrast, saturation, hue):
    has_color = image.shape[-1] == 3
    if brightness:
        image = jnp.clip(image * (1 + brightness * u[0]), 0, 1)
    if contrast:
        middle = jnp.mean(luma(image) if has_color else image)
        image = jnp.clip(middle + (1 + contrast * u[1]) * (image - middle), 0, 1)
    if saturation and has_color:
        grey = luma(image)  # [H, W, 1]
        image = jnp.clip(grey + (1 + saturation * u[2]) * (image - grey), 0, 1)
    if hue and has_color:
        image = turn_hue(image, hue * u[3])
    return image


def restain(
    image: Float[Array, "H W 3"], factors: Float[Array, "3"]
) -> Float[Array, "H W 3"]:
    """Multiply the densities of haematoxylin, eosin and the rest.

    Beer and Lambert: light is exp(-density), densities of stains add up. White has
    none and stays white.

    Args:
      image: RGB in [0, 1].
      factors: one a stain.

    Returns:
      RGB in [0, 1].
    """
    vectors = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    apart = jnp.asarray(np.linalg.inv(vectors), jnp.float32)
    together = jnp.asarray(vectors, jnp.float32)
    precision = jax.lax.Precision.HIGHEST  # a TPU would round densities to bf16
    change = jnp.einsum("is,s,sj->ij", apart, factors, together, precision=precision)
    density = -jnp.log(jnp.maximum(image, 1 / 255))
    density = jnp.einsum("hwi,ij->hwj", density, change, precision=precision)
    return jnp.clip(jnp.exp(-density), 0, 1)


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


def standardize(image: Float[Array, "H W 1"]) -> Float[Array, "H W 1"]:
    """Bring one image to mean 0 and deviation 1; a constant image becomes 0."""
    # From the first pixel on, so that a constant image has no rounding to divide by.
    image = image - image[:1, :1]
    image = image - jnp.mean(image)
    spread = jnp.sqrt(jnp.mean(jnp.square(image)))
    # One pixel of 1024 x 1024 that is one grey level off gives 4e-6; sampling a
    # constant image between its pixels gives 1e-7.
    flat = spread < 1e-6
    return jnp.where(flat, 0.0, image / jnp.where(flat, 1.0, spread))
