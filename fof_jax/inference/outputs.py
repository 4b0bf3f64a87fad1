"""Output types of inference: grade predictions and explanations."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fof_jax.evaluation import dataframe

USE = "Research use only; not for diagnosis."
CARD_FILE = "model_card.md"
# In an output folder: about.json, plots, and, until a job is done, its tables.
ABOUT_FILE, PLOTS, STAGING = "about.json", "focus", ".unfinished"
TILES = "tiles"  # tables and polygons of the tiles of slides


@dataclasses.dataclass(frozen=True, eq=False)
class GradePredictions:
    """Predicted grades of n images.

    Attributes:
      prob: probabilities of the K classes, mean over folds.
      spread: their standard deviation over folds (ddof 0; 0 with one fold).
      classes: names of the K classes.
      error: why an image has no probabilities (its row is NaN); "" otherwise.
      warning: what is odd about an image that is graded; "" otherwise.
    """

    prob: Float[np.ndarray, "n K"]
    spread: Float[np.ndarray, "n K"]
    classes: tuple[str, ...]
    error: tuple[str, ...]
    warning: tuple[str, ...]

    @property
    def pred(self) -> tuple[str, ...]:
        """Most probable class of each image; "" for rows with an error."""
        return tuple(
            "" if error else self.classes[int(np.argmax(row))]
            for row, error in zip(self.prob, self.error, strict=True)
        )

    def to_dataframe(self, images: Sequence[object] | None = None) -> Any:
        """A pandas.DataFrame with one row per image.

        Columns as in predictions.csv: pred, p_CLASS, error, warning, s_CLASS.

        Args:
          images: names for a first column `image`, one per row.

        Raises:
          ImportError: pandas is not installed.
          ValueError: the number of names is not n.
        """
        if images is not None and len(images) != len(self.error):
            raise ValueError(
                f"to_dataframe: got {len(images)} names for {len(self.error)} images, "
                "expected one for each. Pass what was passed to `predict`."
            )
        named = {} if images is None else {"image": [str(name) for name in images]}
        return dataframe.of_columns(
            named
            | {"pred": self.pred}
            | {f"p_{c}": self.prob[:, k] for k, c in enumerate(self.classes)}
            | {"error": self.error, "warning": self.warning}
            | {f"s_{c}": self.spread[:, k] for k, c in enumerate(self.classes)}
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Class activation map and patch mask of one image.

    Attributes:
      pixels: the image at the model's scale.
      A: Eq. (1) for `target`, mean over folds, tiles stitched.
      keep: M of Eq. (2), one value per patch.
      target: class that A explains.
      patch: side of a patch of `keep`, in pixels.
      prob, spread: as in `GradePredictions`.
      warning: what is odd about the image; "" otherwise.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    A: Float[np.ndarray, "H W"]
    keep: Bool[np.ndarray, "h w"]
    target: str
    patch: int
    prob: Float[np.ndarray, " K"]
    spread: Float[np.ndarray, " K"]
    warning: str = ""
