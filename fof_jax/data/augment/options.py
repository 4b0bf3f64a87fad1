"""Augmentation options and presets, the config fields `augment.*`."""

from dataclasses import InitVar, dataclass, fields
from typing import Any

Number = float | int
Range = tuple[Number, Number]

# Options that are probabilities of applying an operation.
FLIPS = ("flip_horizontal", "flip_vertical")
MOVES = ("rotate90", "affine", "distort", "shuffle")
TINTS = ("rgb_shift", "channel_shuffle", "brightness_contrast")
JITTER = ("brightness", "contrast", "saturation", "hue")
# All color operations.
COLORS = ("stain", "jitter", *JITTER, *TINTS)

_OFF: dict[str, Any] = {
    "crop_area": (1.0, 1.0),
    "crop_aspect": (1.0, 1.0),
    "flip_horizontal": 0.0,
    "flip_vertical": 0.0,
    "elastic": 0.0,
    "elastic_cells": 4,
    "rotate90": 0.0,
    "affine": 0.0,
    "distort": 0.0,
    "shuffle": 0.0,
    "stain": 0.0,
    "jitter": 1.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "rgb_shift": 0.0,
    "channel_shuffle": 0.0,
    "brightness_contrast": 0.0,
}
_FLIPPED = {"flip_horizontal": 0.5, "flip_vertical": 0.5}
_JITTERED = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
PRESETS: dict[str, dict[str, Any]] = {
    "off": _OFF,
    # P11: the four of Sec. IV-A.
    "paper": _OFF
    | _FLIPPED
    | _JITTERED
    | {
        "crop_area": (0.7, 1.0),
        "crop_aspect": (0.9, 1.1),
        "hue": 0.02,
        "elastic": 0.02,
    },
    # docs/parity.md 45; implemented in release_ops.py and color.py.
    "release": _OFF
    | _FLIPPED
    | _JITTERED
    | {"hue": 0.5, "jitter": 0.5}
    | dict.fromkeys((*MOVES, *TINTS), 0.5),
}


@dataclass(frozen=True)
class Augmentation:
    """All augmentation options; None uses the value of the preset.

    Hashable, so that it can be a static argument of jit. An operation with value 0 (or
    the range (1, 1)) is off and not compiled.

    Attributes:
      preset: `paper` (P11), `release` (the authors' code, docs/parity.md 45) or `off`.
      crop_area: range of the crop's area as a fraction of the image's,
        0 < low <= high <= 1.
      crop_aspect: range of the crop's aspect ratio, relative to the image's, sampled
        on a log scale; narrowed where such a crop would not fit.
      flip_horizontal: probability of a left-right flip, 0-1.
      flip_vertical: probability of a top-bottom flip, 0-1.
      elastic: maximum displacement along an axis as a fraction of the side, 0-0.25.
      elastic_cells: cells per side of the coarse displacement grid; more cells give
        finer deformations.
      rotate90: probability of a rotation by 0, 90, 180 or 270 degrees.
      affine: probability of a shift, scale and rotation.
      distort: probability of one of elastic noise, grid and optical distortion.
      shuffle: probability of permuting 3 x 3, 7 x 7 or 11 x 11 tiles.
      stain: factor from [1 - stain, 1 + stain] on the optical densities of
        hematoxylin, eosin and the residual stain, 0-1.
      jitter: probability of applying the next four, 0-1.
      brightness: factor from [1 - brightness, 1 + brightness], 0-1.
      contrast: likewise, about the mean luma of the image.
      saturation: likewise, about each pixel's luma.
      hue: rotation of the hue circle from [-hue, hue], 0-0.5.
      rgb_shift: probability of shifting each channel by up to 15 gray levels.
      channel_shuffle: probability of permuting red, green and blue.
      brightness_contrast: probability of a second change of both, not about the mean.
    """

    preset: InitVar[str] = "paper"
    crop_area: Range | None = None
    crop_aspect: Range | None = None
    flip_horizontal: Number | None = None
    flip_vertical: Number | None = None
    elastic: Number | None = None
    elastic_cells: int | None = None
    rotate90: Number | None = None
    affine: Number | None = None
    distort: Number | None = None
    shuffle: Number | None = None
    stain: Number | None = None
    jitter: Number | None = None
    brightness: Number | None = None
    contrast: Number | None = None
    saturation: Number | None = None
    hue: Number | None = None
    rgb_shift: Number | None = None
    channel_shuffle: Number | None = None
    brightness_contrast: Number | None = None

    def __post_init__(self, preset: str):
        if preset not in PRESETS:
            raise ValueError(
                f"augment.preset is {preset!r}; expected one of {', '.join(PRESETS)}."
            )
        for field in fields(self):
            if getattr(self, field.name) is None:
                object.__setattr__(self, field.name, PRESETS[preset][field.name])
        _check(vars(self))

    @classmethod
    def paper(cls) -> "Augmentation":
        """The paper's augmentation (P11), the default."""
        return cls("paper")

    @classmethod
    def release(cls) -> "Augmentation":
        """The augmentation of the authors' code, docs/parity.md 45."""
        return cls("release")

    @classmethod
    def off(cls) -> "Augmentation":
        """No augmentation: `augment` equals `normalize` bitwise."""
        return cls("off")


def _check(amounts: dict[str, Any]) -> None:
    low, high = amounts["crop_area"]
    if not 0 < low <= high <= 1:
        raise ValueError(
            f"augment.crop_area is ({low}, {high}); expected 0 < low <= high <= 1, "
            "fractions of the image's area. Pass (1, 1) for no crop."
        )
    low, high = amounts["crop_aspect"]
    if not 0 < low <= 1 <= high:
        raise ValueError(
            f"augment.crop_aspect is ({low}, {high}); expected 0 < low <= 1 <= "
            "high. Pass (1, 1) to keep the image's proportions."
        )
    limits = {"hue": 0.5, "elastic": 0.25}
    for name in (*FLIPS, *MOVES, *COLORS, "elastic"):
        value, most = amounts[name], limits.get(name, 1)
        if not 0 <= value <= most:
            raise ValueError(
                f"augment.{name} is {value}; expected 0 to {most}. "
                "Pass 0 to switch it off."
            )
    elastic, cells = amounts["elastic"], amounts["elastic_cells"]
    if cells < 1:
        raise ValueError(
            f"augment.elastic_cells is {cells}; expected 1 or more. "
            "Pass augment.elastic=0 to switch the displacement off."
        )
    # The B-spline's slope is at most 2 * elastic per cell; above 1/2 per axis, the
    # image may fold over itself.
    if 2 * elastic * cells >= 0.5:
        raise ValueError(
            f"augment.elastic is {elastic} on {cells} cells, which may fold the "
            "image over itself; expected elastic * elastic_cells < 0.25. Lower one "
            "of the two."
        )
