"""What is odd about an image that is graded nevertheless: the column `warning`."""

import numpy as np
from jaxtyping import UInt8

from fof_jax.data.training_data import TrainingData, appearance, digest

TRAINING_IMAGE = "a training image of this model"
MIN_TISSUE = 0.05  # fraction of an image below which it counts as without tissue
MAX_ENLARGED = 2.0  # factor between an image's shorter side and the training images'
MAX_SQUEEZED = 1.25  # ratio of the sides of an image that is squeezed into a square
_ONE_COLOR = 2.0  # standard deviation of the values of a blank image, at most
_MARGIN = 16.0  # of 255: least distance from the training images' colors


def of_pixels(
    pixels: UInt8[np.ndarray, "H W 3"], *, shortest: int, training: TrainingData | None
) -> list[str]:
    """Warnings about size, tissue and colors of an image, and about a training image.

    Colors are far from the training data's where a mean of R, G or B is further outside
    their range than the range is wide: no training image is.

    Args:
      pixels: as decoded, before stain normalization and resizing.
      shortest: shortest side of the training images, in pixels.
      training: None if unknown; colors are not compared then.
    """
    height, width = pixels.shape[:2]
    messages = []
    if min(height, width) * MAX_ENLARGED < shortest:
        messages.append(
            f"too small: {width} x {height} pixels, the training images have "
            f"{shortest} or more"
        )
    values = appearance(pixels)
    usual = training is None or training.low[3] >= MIN_TISSUE
    if pixels.std(axis=(0, 1)).max() < _ONE_COLOR:
        messages.append("no tissue: the image has one color")
    elif values[3] < MIN_TISSUE and usual:
        messages.append(f"no tissue: {values[3]:.0%} of the image is stained")
    if training is not None:
        low, high = np.array(training.low[:3]), np.array(training.high[:3])
        margin = np.maximum(high - low, _MARGIN)
        if ((values[:3] < low - margin) | (values[:3] > high + margin)).any():
            mean = ", ".join(f"{value:.0f}" for value in values[:3])
            ranges = ", ".join(
                f"{a:.0f}-{b:.0f}" for a, b in zip(low, high, strict=True)
            )
            messages.append(
                f"colors far from the training data's: mean R, G, B {mean}; there "
                f"{ranges}"
            )
        if digest(pixels) in training.digests:
            messages.append(TRAINING_IMAGE)
    return messages
