"""Color augmentation and grayscale conversion of images in [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Number = float | int

RGB_SHIFT = 15 / 255  # maximum shift, docs/parity.md 45
# Optical densities of hematoxylin, eosin and a residual stain in RGB: Ruifrok and
# Johnston (2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# ITU-R BT.601, as in PIL's mode L and torchvision.
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
    """Applies stain augmentation, color jitter and three operations of the release.

    The jitter is brightness, contrast, saturation and hue in this order (the release
    shuffles them), clipped after each and never rounded to integer gray levels.

    Args:
      image: [0, 1]; three channels, or one for grayscale, where saturation and hue
        have no effect.
      key: random key.
      brightness: factor from [1 - brightness, 1 + brightness].
      contrast: likewise, about the mean luma of the image.
      saturation: likewise, about each pixel's luma.
      hue: rotation of the hue circle from [-hue, hue].
      stain: factor from [1 - stain, 1 + stain] on the density of each stain.
      jitter: probability of applying the first four.
      rgb_shift: probability of a shift of each channel by up to 15 gray levels.
      channel_shuffle: probability of permuting the channels.
      brightness_contrast: probability of scaling by 0.8-1.2 and shifting by up to 0.2.

    Returns:
      The image, in [0, 1].
    """
    has_color = image.shape[-1] == 3
    # A single call for all random numbers shortens compilation.
    more = jax.random.uniform(jax.random.fold_in(key, 1), (16,), minval=-1.0)
    uniform = (more[:4] + 1) / 2
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
        image = changed if jitter == 1 else _maybe(uniform[0] < jitter, changed, image)
    if rgb_shift and has_color:
        changed = jnp.clip(image + (RGB_SHIFT * more[7:10]).reshape(1, 1, 3), 0, 1)
        image = _maybe(uniform[1] < rgb_shift, changed, image)
    if channel_shuffle and has_color:
        order = jnp.argsort(more[10:13])
        image = _maybe(uniform[2] < channel_shuffle, image[..., order], image)
    if brightness_contrast:
        changed = jnp.clip(image * (1 + 0.2 * more[13]) + 0.2 * more[14], 0, 1)
        image = _maybe(uniform[3] < brightness_contrast, changed, image)
    return image


def _maybe(apply, changed, image):
    return jnp.where(apply, changed, image)


def _jittered(image, u, *, brightness, contrast, saturation, hue):
    has_color = image.shape[-1] == 3
    if brightness:
        image = jnp.clip(image * (1 + brightness * u[0]), 0, 1)
    if contrast:
        middle = jnp.mean(luma(image) if has_color else image)
        image = jnp.clip(middle + (1 + contrast * u[1]) * (image - middle), 0, 1)
    if saturation and has_color:
        gray = luma(image)  # [H, W, 1]
        image = jnp.clip(gray + (1 + saturation * u[2]) * (image - gray), 0, 1)
    if hue and has_color:
        image = rotate_hue(image, hue * u[3])
    return image


def restain(
    image: Float[Array, "H W 3"], factors: Float[Array, "3"]
) -> Float[Array, "H W 3"]:
    """Scales the densities of hematoxylin, eosin and the residual stain.

    By the Beer-Lambert law intensity is exp(-density), and densities of stains add.
    White has density 0 and is unchanged.

    Args:
      image: RGB in [0, 1].
      factors: one per stain.

    Returns:
      RGB in [0, 1].
    """
    vectors = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    unmix = jnp.asarray(np.linalg.inv(vectors), jnp.float32)
    mix = jnp.asarray(vectors, jnp.float32)
    precision = jax.lax.Precision.HIGHEST  # TPUs would otherwise round to bf16
    change = jnp.einsum("is,s,sj->ij", unmix, factors, mix, precision=precision)
    density = -jnp.log(jnp.maximum(image, 1 / 255))
    density = jnp.einsum("hwi,ij->hwj", density, change, precision=precision)
    return jnp.clip(jnp.exp(-density), 0, 1)


def rotate_hue(
    image: Float[Array, "H W 3"], turn: Float[Array, ""]
) -> Float[Array, "H W 3"]:
    """Rotates the HSV hue; value and chroma are unchanged, as are grays.

    Args:
      image: RGB in [0, 1].
      turn: fraction of the full circle; 1/3 maps red to green.

    Returns:
      RGB in [0, 1].
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    per = 1 / jnp.where(chroma > 0, chroma, 1.0)  # grays have hue 0 and chroma 0
    # Inequalities instead of `value == red`: XLA may compute a channel twice with
    # different rounding, and then no channel would equal `value`.
    sixth = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * per,
        jnp.where(green >= blue, 2 + (blue - red) * per, 4 + (red - green) * per),
    )
    sixth = sixth + 6 * turn

    def channel(shift):
        k = sixth + shift
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod is five times slower on CPUs
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def luma(
    image: UInt8[Array, "H W 3"] | Float[Array, "H W 3"],
) -> Float[Array, "H W 1"]:
    """BT.601 luma of an RGB image [H, W, 3] as float32, in the units of the image."""
    image = image.astype(jnp.float32)
    red, green, blue = (weight * image[..., i] for i, weight in enumerate(LUMA))
    return (red + green + blue)[..., None]


def standardize(image: Float[Array, "H W 1"]) -> Float[Array, "H W 1"]:
    """Scales one image to mean 0 and standard deviation 1; constant images become 0."""
    # Subtracts the first pixel, so that constant images are 0 without rounding error.
    image = image - image[:1, :1]
    image = image - jnp.mean(image)
    std = jnp.sqrt(jnp.mean(jnp.square(image)))
    # The std of a single pixel one gray level off in 1024 x 1024 is 4e-6; that of
    # an interpolated constant image is 1e-7.
    flat = std < 1e-6
    return jnp.where(flat, 0.0, image / jnp.where(flat, 1.0, std))
