"""The interface of a loaded model: grade predictions for images of any size.

`model.TrainedModel` implements it for a run or a fold, `exported.ExportedModel` for an
exported file. Both give each tile's probabilities; everything else follows from them.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data.images import ImageLike
from fof_jax.data.training_data import TrainingData
from fof_jax.evaluation.abstention import Rule
from fof_jax.inference import preprocess
from fof_jax.inference.compiled import BATCH
from fof_jax.inference.names import listed
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.preprocess import PreparedImage


@runtime_checkable
class Predictor(Protocol):
    """A model of one fold or an ensemble of several.

    Attributes:
      config: of the run.
      sides: shortest and longest side of the images that the run's dataset was built
        from, in pixels; None if unknown.
      training: of the training images of all folds; None if unknown.
    """

    config: ConfigDict
    sides: tuple[int, int] | None
    training: TrainingData | None

    @property
    def fold_names(self) -> tuple[str, ...]:
        """Names of the folds, in the order of `fold_probabilities`."""
        ...

    def fold_probabilities(
        self,
        tiles: UInt8[np.ndarray, "n S S 3"],
        omics: Float[np.ndarray, "n M"] | None = None,
    ) -> Float[np.ndarray, "n F K"]:
        """Probabilities of each tile by each fold; omics are those of its image."""
        ...

    @property
    def omic_names(self) -> tuple[str, ...]:
        """Names of the M omics that a prediction needs; () for images alone."""
        return ()

    @property
    def reads_graphs(self) -> bool:
        """Whether predictions are of cell graphs that are built of each image."""
        return False

    @property
    def imputes_omics(self) -> bool:
        """Whether a patient without any known omics entry is accepted."""
        return False

    @property
    def abstention(self) -> dict[str, Rule]:
        """Rules that a model was exported with, by unit; {} for none."""
        return {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes; earlier runs may hold them as numbers."""
        return tuple(map(str, self.config.data.classes))

    @property
    def biomarkers(self) -> tuple[str, ...]:
        """Names of the N biomarkers used in training."""
        return tuple(map(str, self.config.data.biomarkers))

    @property
    def image_size(self) -> int:
        """S, side of the network's input, in pixels."""
        return int(self.config.data.image_size)

    def __repr__(self) -> str:
        """Method, encoder, classes and folds in one line, without the weights."""
        folds = len(self.fold_names)
        return (
            f"<{type(self).__name__}: {self.config.method}, {self.config.encoder} at "
            f"{self.image_size} px, classes {', '.join(self.classes)}, {folds} "
            f"{'fold' if folds == 1 else 'folds'}>"
        )

    def class_index(self, target: str | None) -> int | None:
        """Index of a class; None for None.

        Raises:
          ValueError: there is no such class.
        """
        if target is None:
            return None
        if target not in self.classes:
            raise ValueError(
                f"class {target!r} does not exist; the model has "
                f"{', '.join(self.classes)}."
            )
        return self.classes.index(target)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        omics: np.ndarray | None = None,
    ) -> GradePredictions:
        """Predicts the grades of images of any size.

        Args:
          images: files, PIL images, or RGB arrays of 0-255; or one of them, whose
            grade is the only row.
          omics: raw molecular vectors [n, M] in the order of `omic_names`, NaN where
            unknown, for a model that needs them; [M] for one image.

        Raises:
          ValueError: an image cannot be used, names it; or omics are missing. `stream`
            continues instead.
        """
        if omics is not None:
            omics = np.atleast_2d(np.asarray(omics, np.float32))
        if isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim <= 3
        ):
            images = [images]
        if omics is not None and len(omics) != len(images):
            raise ValueError(
                f"omics: got {len(omics)} rows for {len(images)} images, expected one "
                "row of omics for each image."
            )
        rows = list(self.stream(images, omics))
        for image, row in zip(images, rows, strict=True):
            if row.error[0]:
                name = image if isinstance(image, str | Path) else "image"
                raise ValueError(f"{name}: {row.error[0]}")
        empty = np.zeros((0, len(self.classes)))
        return GradePredictions(
            prob=np.concatenate([empty, *(row.prob for row in rows)]),
            spread=np.concatenate([empty, *(row.spread for row in rows)]),
            classes=self.classes,
            error=tuple(row.error[0] for row in rows),
            warning=tuple(row.warning[0] for row in rows),
        )

    def stream(
        self,
        images: Iterable[ImageLike],
        omics: Iterable[np.ndarray | None] | None = None,
        zooms: Iterable[float | None] | None = None,
    ) -> Iterator[GradePredictions]:
        """Predicts image by image with bounded memory.

        Args:
          images: as in `predict`.
          omics: of each image; None for a model of the image alone.
          zooms: of each image, see `preprocess.preprocess`; None of all.

        Yields:
          One row per image; `error` is set if the image cannot be used.
        """
        pending: list[PreparedImage | str] = []
        tiles = 0
        vectors = itertools.repeat(None) if omics is None else omics
        factors = itertools.repeat(None) if zooms is None else zooms
        for image, vector, zoom in zip(images, vectors, factors, strict=False):
            try:
                prepared = self.preprocess(image, vector, zoom)
            except (ValueError, OSError) as error:
                pending.append(str(error))
            else:
                pending.append(prepared)
                tiles += len(prepared.tiles)
            if tiles >= BATCH or len(pending) >= 4 * BATCH:
                yield from self.predict_prepared(pending)
                pending, tiles = [], 0
        yield from self.predict_prepared(pending)

    def preprocess(
        self,
        image: ImageLike,
        omics: np.ndarray | None = None,
        zoom: float | None = None,
    ) -> PreparedImage:
        """Scales an image and cuts it into tiles, see `preprocess.preprocess`.

        Raises:
          ValueError: as there, and as `require_omics`.
        """
        self.require_omics(omics)
        prepared = preprocess.preprocess(
            image, self.config.data, self.sides, self.training, zoom
        )
        return dataclasses.replace(prepared, omics=omics if self.omic_names else None)

    def require_omics(self, omics: np.ndarray | None) -> None:
        """Checks that an image has the omics that a prediction needs.

        Args:
          omics: [M], in the order of `omic_names`, NaN where unknown.

        Raises:
          ValueError: they are missing, have another length, or none is known and the
            method does not impute them.
        """
        names = self.omic_names
        if not names:
            return
        needs = f"method {self.config.method!r} needs omics at test"
        if omics is None:
            raise ValueError(
                f"{needs}, and none were given. Pass the model's {len(names)} values "
                f"({listed(names)}), NaN where unknown."
            )
        if np.shape(omics) != (len(names),):
            raise ValueError(
                f"{needs}: got shape {np.shape(omics)}, expected ({len(names)},), in "
                "the order of omic_names."
            )
        if not (self.imputes_omics or np.isfinite(omics).any()):
            raise ValueError(
                f"{needs}, and this patient has no known entry. Leave the patient out, "
                "or use fusion.ddmnet, which imputes a missing modality."
            )

    def probabilities_of(
        self, prepared: Sequence[PreparedImage]
    ) -> Float[np.ndarray, "n F K"]:
        """Probabilities of all tiles of some images by each fold."""
        tiles = np.concatenate([one.tiles for one in prepared])
        return self.fold_probabilities(tiles, omics_of_tiles(prepared))

    def predict_prepared(
        self, prepared: Sequence[PreparedImage | str]
    ) -> list[GradePredictions]:
        """One row per image: mean over its tiles; NaN for an error message."""
        valid = [one for one in prepared if isinstance(one, PreparedImage)]
        per_image: Iterator[np.ndarray] = iter(())
        if valid:
            prob = self.probabilities_of(valid)
            ends = np.cumsum([len(one.tiles) for one in valid])[:-1]
            per_image = (part.mean(axis=0) for part in np.split(prob, ends))  # [F, K]
        missing = np.full((1, len(self.classes)), np.nan)
        rows = []
        for one in prepared:
            error = one if isinstance(one, str) else ""
            per_fold = missing if error else next(per_image)
            rows.append(
                GradePredictions(
                    prob=per_fold.mean(axis=0, keepdims=True),
                    spread=per_fold.std(axis=0, keepdims=True),
                    classes=self.classes,
                    error=(error,),
                    warning=("" if isinstance(one, str) else one.warning,),
                )
            )
        return rows


def longest_side(model: Predictor) -> int:
    """Longest side of the training images, in pixels; the input's if unknown."""
    return max(model.image_size, *(model.sides or ()))


def omics_of_tiles(images: Sequence[PreparedImage]) -> np.ndarray | None:
    """The vector of each tile's image [n, M]; None for a model of the image alone."""
    if images[0].omics is None:
        return None
    counts = [len(one.tiles) for one in images]
    vectors = np.stack([np.asarray(one.omics, np.float32) for one in images])
    return np.repeat(vectors, counts, axis=0)
