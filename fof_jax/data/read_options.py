"""How stored and new images become squares: one preprocessing for all of the program.

Training, testing and inference decode an image, normalize its stain (`load`), and
resize or crop it (`square`), with the same functions and the same options.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, UInt8

from fof_jax.data import squares
from fof_jax.data.errors import check_choice
from fof_jax.data.stain import STAIN_RULES, normalize_stain


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Options of the config's section `data` that decide pixels.

    Attributes:
      small: how images smaller than the target are read: `resize`, `pad` or `error`.
      stain: `none`, or `macenko` to normalize images after decoding.
      train_view: `resize` reads whole images, `crop` a random square without scaling.
      test_view: likewise; `crop` is the center.

    Raises:
      ValueError: an unknown option.
    """

    small: str = "resize"
    stain: str = "none"
    train_view: str = "resize"
    test_view: str = "resize"

    def __post_init__(self) -> None:
        for name, allowed in {
            "small": squares.SMALL_RULES,
            "stain": STAIN_RULES,
            "train_view": squares.VIEW_RULES,
            "test_view": squares.VIEW_RULES,
        }.items():
            check_choice(name, getattr(self, name), allowed)

    @property
    def test_corner(self) -> squares.Corner | None:
        """Position of the test crop, or None for whole images."""
        return (0.5, 0.5) if self.test_view == "crop" else None

    def load(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Normalizes the stain of decoded pixels."""
        return normalize_stain(pixels, self.stain)

    def square(
        self,
        pixels: UInt8[np.ndarray, "H W 3"],
        side: int,
        *,
        name: str,
        corner: squares.Corner | None,
    ) -> UInt8[np.ndarray, "S S 3"]:
        """Resizes or crops loaded pixels, see `squares.fit_region`."""
        return squares.fit_region(
            pixels, side, small=self.small, name=name, corner=corner
        )

    def mask(self, data: bytes, side: int, *, name: str) -> Bool[np.ndarray, "S S"]:
        """Decodes a mask as images are read for testing, see `squares.decode_mask`."""
        return squares.decode_mask(
            data, side, small=self.small, name=name, corner=self.test_corner
        )
