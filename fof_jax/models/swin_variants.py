"""Table of SwinV2 variants that a config can name, and the image sizes that fit."""

import dataclasses
from typing import NamedTuple

from fof_jax.models import swin_window


@dataclasses.dataclass(frozen=True)
class Size:
    """Dimensions of a SwinV2 variant.

    Attributes:
      width: channels of the first stage; each later one has twice as many.
      depths, heads: blocks and attention heads of each stage.
      drop_path: rate of the last block; the first has 0, linear between.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float = 0.0


# tiny: Liu et al. 2022 (SwinV2-T); mu: for tests and small images.
SIZES = {
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24), drop_path=0.2),
    "mu": Size(24, (2, 2, 2, 2), (1, 2, 4, 8)),
}
PREFIX = "swinv2_"
WINDOWS = range(2, 17)  # that messages offer


class Variant(NamedTuple):
    """What the name of a SwinV2 says.

    Attributes:
      size: dimensions.
      window: its side in tokens.
      pretrained_window: window that scales the relative coordinates; 0 is `window`.
    """

    size: Size
    window: int
    pretrained_window: int = 0


def parse_variant(name: str) -> Variant:
    """Parses "swinv2_tiny/8", or "swinv2_tiny/16/8": window 16, coordinates of 8.

    Raises:
      ValueError: malformed name or unknown size.
    """
    size, *windows = name.removeprefix(PREFIX).split("/")
    sides = [int(w) for w in windows if w.isdigit() and int(w) >= 2]
    if size not in SIZES or len(sides) != len(windows) or len(sides) not in (1, 2):
        raise ValueError(
            f"encoder: {name!r} is not a SwinV2 variant. Expected {PREFIX}SIZE/WINDOW "
            f"with SIZE one of {', '.join(SIZES)} and WINDOW a number of tokens, 2 or "
            f"more, e.g. '{PREFIX}tiny/8'; or {PREFIX}SIZE/WINDOW/PRETRAINED, whose "
            "relative coordinates are those of another window, in which the weights "
            "were trained."
        )
    return Variant(SIZES[size], *sides)


def check_image_size(size: tuple[int, int], *, window: int, stages: int = 4) -> None:
    """Checks that windows divide the maps of every stage.

    Published implementations disagree at other sizes: they pad before or after the
    shift, or refuse.

    Raises:
      ValueError: with the sizes that fit.
    """
    fault = swin_window.fault_of(size, window=window, stages=stages)
    if fault is None:
        return
    near = swin_window.sizes_that_fit(window=window, stages=stages, near=max(size))
    windows = [
        str(w)
        for w in WINDOWS
        if swin_window.fault_of(size, window=w, stages=stages) is None
    ]
    raise ValueError(
        f"image_size: SwinV2 with windows of {window} does not fit {size[0]} x "
        f"{size[1]} pixels: {fault}. Sizes that fit: {', '.join(map(str, near))}. "
        f"Windows that fit this size: {', '.join(windows) or 'none'}. Pass "
        "--config.data.image_size, or the window as in "
        f"--config.encoder={PREFIX}tiny/8."
    )
