"""Scale of region images: the column `mpp`, and that of the training images."""

import dataclasses
from collections.abc import Sequence

from fof_jax.inference.inputs import ImageInput

TRAINING_MPP = 0.5  # micrometers per pixel: 20x, the scale of the paper's regions
_TOLERANCE = 0.1  # relative difference of scales that is not warned of


@dataclasses.dataclass(frozen=True)
class TrainingScale:
    """Scale of the training images, and whether images are brought to it.

    Attributes:
      mpp: micrometers per pixel of the training images.
      resample: True brings images that state a scale to `mpp` before all else.
    """

    mpp: float = TRAINING_MPP
    resample: bool = False

    def zoom(self, image: ImageInput) -> float | None:
        """Factor from an image's scale to that of training; None if not resampled."""
        if not self.resample or image.mpp is None:
            return None
        return image.mpp / self.mpp

    def warning(self, image: ImageInput) -> str:
        """Warning of an image of another scale that is not resampled; "" for none."""
        if image.mpp is None:
            return "no mpp in the table: not resampled" if self.resample else ""
        ratio = image.mpp / self.mpp
        if self.resample or 1 / (1 + _TOLERANCE) <= ratio <= 1 + _TOLERANCE:
            return ""
        return (
            f"{image.mpp:g} µm/pixel, the training images have {self.mpp:g}: "
            "--resample brings it to their scale"
        )

    def check(self, images: Sequence[ImageInput]) -> None:
        """Checks that there is a scale to resample by.

        Raises:
          ValueError: no image states one.
        """
        if self.resample and all(one.mpp is None for one in images):
            raise ValueError(
                "--resample: no image states its scale; expected a table with a column "
                "'mpp', micrometers per pixel. Pass one as --images, or leave out "
                "--resample."
            )


AT_20X = TrainingScale()
