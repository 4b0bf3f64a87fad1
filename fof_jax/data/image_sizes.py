"""Reports images whose size differs from the target size."""

import warnings

import numpy as np
from jaxtyping import Int

from fof_jax.data import images, squares
from fof_jax.data.cohort import Cohort
from fof_jax.data.errors import DataWarning, check_choice, shortened


def measure(cohort: Cohort) -> Int[np.ndarray, "n 2"]:
    """Reads height and width of each image from the file headers.

    Raises:
      ImageError: a file is not a supported image.
    """
    with images.quiet_decoding():
        headers = [images.read_header(row.image) for row in cohort.rows]
    return np.array([(h.height, h.width) for h in headers], np.int32).reshape(-1, 2)


def check_sizes(
    sizes: Int[np.ndarray, "n 2"],
    names: tuple[str, ...],
    *,
    small: str,
    image_size: int,
    views: tuple[str, str] = ("resize", "resize"),
) -> None:
    """Warns about images that will be resized, padded or squeezed when read.

    Args:
      sizes: height and width of each image.
      names: of the images, for the message.
      small: `resize`, `pad` or `error`.
      image_size: side of the square target.
      views: how training and testing reach it, `resize` or `crop`.

    Warns:
      DataWarning: lists images that are smaller than the target or not square.

    Raises:
      ValueError: smaller images under `error`; a bad `small`.
    """
    check_choice("small", small, squares.SMALL_RULES)

    def listing(where: np.ndarray) -> str:
        return shortened([f"{names[i]} ({sizes[i, 1]}x{sizes[i, 0]})" for i in where])

    under = np.flatnonzero(sizes.min(axis=1) < image_size)
    if len(under):
        text = (
            f"{len(under)} of {len(names)} images are smaller than "
            f"image_size={image_size}: {listing(under)}"
        )
        if len(names) > 1 and (sizes == sizes[0, 0]).all():
            side = int(sizes[0, 0])
            # Common patches are 8 and 16 pixels.
            fits = side - side % 16 if side >= 16 else side
            text = (
                f"all images are {side} px, smaller than image_size={image_size}: pass "
                f"--config.data.image_size={fits}"
            )
        if small == "error":
            raise ValueError(
                f"{text}. data.small='error' forbids that: lower "
                "--config.data.image_size, or set --config.data.small to resize or pad."
            )
        fate = "enlarged" if small == "resize" else "padded with white"
        warnings.warn(
            f"{text}. They are {fate} when read (data.small={small!r}).",
            DataWarning,
            stacklevel=3,
        )
    oblong = np.flatnonzero(sizes[:, 0] != sizes[:, 1])
    if len(oblong) and "resize" in views:  # crops keep proportions
        warnings.warn(
            f"{len(oblong)} of {len(names)} images are not square: {listing(oblong)}. "
            "They are squeezed into a square when read.",
            DataWarning,
            stacklevel=3,
        )
