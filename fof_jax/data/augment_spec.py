"""The amounts of the augmentation, P11; their names are the fields `augment.*`."""

from dataclasses import dataclass

Number = float | int

FLIPS = ("flip_horizontal", "flip_vertical")
COLOURS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Augmentation:
    """Every amount of the augmentation; the defaults are the preset `paper` (P11).

    Hashable, so it can be static under jit. An amount of 0 (or a range that is one
    point, 1) switches an operation off, and then nothing of it is compiled.

    Attributes:
      crop_area: range of the crop's share of the image's area, 0 < low <= high <= 1.
      crop_aspect: range of the crop's width by height, relative to the image's,
        drawn on a log scale; narrowed where a crop of that area would not fit in.
      flip_horizontal: probability of left becoming right, 0-1.
      flip_vertical: probability of top becoming bottom, 0-1.
      brightness: factor from [1 - brightness, 1 + brightness], 0-1.
      contrast: likewise, about the mean luma of the image.
      saturation: likewise, about each pixel's luma.
      hue: turn of the hue circle from [-hue, hue], 0-0.5.
      elastic: largest displacement along an axis, as a share of that side, 0-0.25.
      elastic_cells: cells along a side of the coarse grid that draws the
        displacement; more cells, finer waves.
    """

    crop_area: tuple[Number, Number] = (0.7, 1.0)
    crop_aspect: tuple[Number, Number] = (0.9, 1.1)
    flip_horizontal: Number = 0.5
    flip_vertical: Number = 0.5
    brightness: Number = 0.2
    contrast: Number = 0.2
    saturation: Number = 0.2
    hue: Number = 0.02
    elastic: Number = 0.02
    elastic_cells: int = 4

    def __post_init__(self):
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"augment.crop_area is ({low}, {high}); expected 0 < low <= high <= 1, "
                "shares of the image's area. Pass (1, 1) for no crop."
            )
        low, high = self.crop_aspect
        if not 0 < low <= 1 <= high:
            raise ValueError(
                f"augment.crop_aspect is ({low}, {high}); expected 0 < low <= 1 <= "
                "high. Pass (1, 1) to keep the image's proportions."
            )
        limits = {"hue": 0.5, "elastic": 0.25}
        for name in (*FLIPS, *COLOURS, "elastic"):
            value, most = getattr(self, name), limits.get(name, 1)
            if not 0 <= value <= most:
                raise ValueError(
                    f"augment.{name} is {value}; expected 0 to {most}. "
                    "Pass 0 to switch it off."
                )
        if self.elastic_cells < 1:
            raise ValueError(
                f"augment.elastic_cells is {self.elastic_cells}; expected 1 or more. "
                "Pass augment.elastic=0 to switch the displacement off."
            )
        # A B-spline's slope is at most 2 * elastic a cell; past 1/2 an axis the two
        # axes together may fold the image over itself.
        if 2 * self.elastic * self.elastic_cells >= 0.5:
            raise ValueError(
                f"augment.elastic is {self.elastic} on {self.elastic_cells} cells, "
                "which may fold the image over itself; expected elastic * "
                "elastic_cells < 0.25. Lower one of the two."
            )

    @classmethod
    def paper(cls) -> "Augmentation":
        """P11, written out; the same as the defaults."""
        return cls()

    @classmethod
    def off(cls) -> "Augmentation":
        """Nothing is altered: `augment` equals `normalise`, bit by bit."""
        return cls(
            crop_area=(1.0, 1.0),
            crop_aspect=(1.0, 1.0),
            flip_horizontal=0.0,
            flip_vertical=0.0,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            elastic=0.0,
        )
