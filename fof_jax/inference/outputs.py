"""What a trained model answers with: grades of images, and where it looked."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

USE = "Research use only; not for diagnosis."
CARD_FILE = "model_card.md"


@dataclasses.dataclass(frozen=True, eq=False)
class Grades:
    """Grades of n images.

    Attributes:
      prob: probabilities of the K classes, the mean over folds.
      spread: their standard deviation over folds (ddof 0; 0 with one fold).
      classes: their names.
      error: why an image has no probabilities (its row is NaN); "" where it has.
    """

    prob: Float[np.ndarray, "n K"]
    spread: Float[np.ndarray, "n K"]
    classes: tuple[str, ...]
    error: tuple[str, ...]

    @property
    def pred(self) -> tuple[str, ...]:
        """The most probable class of each image; "" on rows with an error."""
        return tuple(
            "" if fault else self.classes[int(np.argmax(row))]
            for row, fault in zip(self.prob, self.error, strict=True)
        )


USE = "Research use only; not for diagnosis."
CARD_FILE = "model_card.md"


@dataclasses.dataclass(frozen=True, eq=False)
class Focus:
    """Where a model looked.

    Attributes:
      pixels: the image as it was seen: at the model's scale.
      A: Eq. (1) for `target`, the mean over folds; tiles stitched.
      keep: M of Eq. (2), one a patch.
      target: class that A speaks for.
      prob, spread: as in `Grades`.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    A: Float[np.ndarray, "H W"]
    keep: Bool[np.ndarray, "h w"]
    target: str
    prob: Float[np.ndarray, " K"]
    spread: Float[np.ndarray, " K"]
