"""A trained model in memory: predictions, class activation maps, features.

    model = fof_jax.load("runs/phantom")        # a run: ensemble of its folds
    grades = model.predict(["a.png", "b.png"])  # .prob [n, K], .spread, .pred
    result = model.explain("a.png")             # .A [H, W], .keep [h, w]

An image no larger than the training images gets the probabilities that
predictions.csv would have for it. A larger one is brought to their scale and cut into
overlapping tiles, whose probabilities are averaged.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from fof_jax.data.images import ImageLike
from fof_jax.data.training_data import TrainingData
from fof_jax.inference import compiled, graph_input, tiling
from fof_jax.inference.compiled import in_batches
from fof_jax.inference.outputs import Explanation
from fof_jax.inference.predictor import Predictor, omics_of_tiles
from fof_jax.inference.preprocess import PreparedImage
from fof_jax.methods.base import Explainer
from fof_jax.models import vit
from fof_jax.training import graph_tokens
from fof_jax.types import Variables


@dataclasses.dataclass(eq=False, repr=False)
class TrainedModel(Predictor):
    """A trained model of one fold or several; made by `load.load`.

    Attributes:
      method: as in `methods/registry.py`.
      folds: variables, by the folder that they were read from.
      config, sides, training: as in `Predictor`.
      omic_columns: names of the omics that the run's data had.
      graphs: how the cell graphs of the run's data were made; None for a method that
        reads none.
    """

    method: Any
    folds: dict[str, Variables]
    config: ConfigDict
    sides: tuple[int, int] | None
    training: TrainingData | None = None
    omic_columns: tuple[str, ...] = ()
    graphs: dict[str, Any] | None = None

    @property
    def fold_names(self) -> tuple[str, ...]:
        """Folders that the folds were read from."""
        return tuple(self.folds)

    @property
    def omic_names(self) -> tuple[str, ...]:
        """As in `Predictor`."""
        return self.omic_columns if "omics" in self.method.inputs.test else ()

    @property
    def reads_graphs(self) -> bool:
        """As in `Predictor`."""
        return self.graphs is not None

    @functools.cached_property
    def _token_columns(self) -> graph_tokens.TokenColumns | None:
        about = (self.graphs or {}).get("tokens")
        return graph_tokens.rebuild(self.config, about) if about else None

    def probabilities_of(
        self, prepared: Sequence[PreparedImage]
    ) -> Float[np.ndarray, "n F K"]:
        """As in `Predictor`."""
        if not self.reads_graphs:
            return super().probabilities_of(prepared)
        folds = self.folds.values()
        return np.stack([self._apply_to_graphs(v, prepared)[0] for v in folds], axis=1)

    @property
    def imputes_omics(self) -> bool:
        """As in `Predictor`; true of DDM-net."""
        return bool(getattr(self.method, "imputes", False))

    def preprocess(
        self,
        image: ImageLike,
        omics: np.ndarray | None = None,
        zoom: float | None = None,
    ) -> PreparedImage:
        """As in `Predictor`, with graphs where they are read; not of bags."""
        if reads_bags(self):
            raise ValueError(
                "the model was trained on patch features (HDF5), not on images. Use "
                "`python launch.py predict`, or fof_jax.inference.bags.BagPredictor."
            )
        prepared = super().preprocess(image, omics, zoom)
        if self.graphs is None:
            return prepared
        return graph_input.with_graphs(
            image,
            prepared,
            self.config,
            self.sides,
            self.graphs,
            add_columns=self._token_columns,
            zoom=zoom,
        )

    def explain(
        self, image: ImageLike, target: str | None = None, *, zoom: float | None = None
    ) -> Explanation:
        """Computes Eq. (1) and (2) for one image.

        Args:
          image: as in `predict`.
          target: a class; None for the predicted one.
          zoom: factor of the image's sides, see `preprocess.preprocess`.

        Raises:
          ValueError: no such class, or the image cannot be used.
        """
        index = self.class_index(target)
        prepared = self.preprocess(image, zoom=zoom)
        (grades,) = self.predict_prepared([prepared])
        if index is None:
            index = int(np.argmax(grades.prob[0]))

        maps = self._maps(prepared.tiles, np.full(len(prepared.tiles), index))
        height, width = prepared.pixels.shape[:2]
        A = tiling.stitch(list(maps), prepared.corners, (height, width))
        patch = vit.parse_variant(self.config.encoder)[1]
        return Explanation(
            pixels=prepared.pixels,
            A=A,
            keep=self._keep(A)[: height // patch, : width // patch],
            target=self.classes[index],
            patch=patch,
            warning=prepared.warning,
            prob=grades.prob[0],
            spread=grades.spread[0],
        )

    def tile_maps(
        self, tiles: UInt8[np.ndarray, "n S S 3"], targets: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n S S"], Bool[np.ndarray, "n h w"]]:
        """Eq. (1) and (2) of single tiles, as of images no larger than they are.

        Args:
          tiles: the network's input.
          targets: index of the class that each tile's map explains.

        Returns:
          A, mean over folds, and M, one value per patch.
        """
        A = self._maps(tiles, targets)
        patch_mask = functools.partial(compiled.patch_mask, self.method)
        return A, in_batches(patch_mask, A.astype(np.float32)) > 0

    def features(
        self, images: Sequence[ImageLike], omics: np.ndarray | None = None
    ) -> Float[np.ndarray, "F n D"]:
        """v = g(x) of each image by each fold; mean over its tiles.

        Args:
          images, omics: as in `predict`.

        Raises:
          ValueError: an image cannot be used, or omics are missing.
        """
        vectors = [None] * len(images) if omics is None else list(omics)
        prepared = [
            self.preprocess(image, vector)
            for image, vector in zip(images, vectors, strict=True)
        ]
        of_tiles = omics_of_tiles(prepared)
        tiles = np.concatenate([one.tiles for one in prepared])
        ends = np.cumsum([len(one.tiles) for one in prepared])[:-1]
        if self.reads_graphs:
            of_fold = [
                self._apply_to_graphs(v, prepared)[1] for v in self.folds.values()
            ]
            each = np.stack(of_fold, axis=1)
        else:
            each = self.fold_features(tiles, of_tiles)
        parts = np.split(each, ends)
        return np.stack([part.mean(axis=0) for part in parts], axis=1)

    def fold_features(
        self,
        tiles: UInt8[np.ndarray, "n S S 3"],
        omics: Float[np.ndarray, "n M"] | None = None,
    ) -> Float[np.ndarray, "n F D"]:
        """v = g(x) of each tile by each fold, of a method that reads images.

        Args:
          tiles: as the network reads them, after `preprocess`.
          omics: of each tile.
        """
        return self._by_fold(self._feature, tiles, omics)

    def fold_probabilities(
        self,
        tiles: UInt8[np.ndarray, "n S S 3"],
        omics: Float[np.ndarray, "n M"] | None = None,
    ) -> Float[np.ndarray, "n F K"]:
        """Probabilities of each tile by each fold.

        Raises:
          ValueError: the method reads cell graphs, which are of whole regions.
        """
        if self.reads_graphs:
            raise ValueError(graph_input.only_regions(self.config.method))
        return self._by_fold(self._probabilities, tiles, omics)

    def _by_fold(
        self,
        function: Callable[..., jax.Array],
        tiles: UInt8[np.ndarray, "n S S 3"],
        omics: Float[np.ndarray, "n M"] | None,
    ) -> Float[np.ndarray, "n F X"]:
        """A compiled function of variables and tiles, of each tile by each fold."""
        per_fold = [
            in_batches(functools.partial(function, variables), tiles, omics)
            for variables in self.folds.values()
        ]
        return np.stack(per_fold, axis=1)

    def _apply_to_graphs(
        self, variables: Variables, prepared: Sequence[PreparedImage]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and features of the graphs of some images by one fold."""
        apply = functools.partial(compiled.apply_to_graphs, self.method, variables)
        return graph_input.in_batches(apply, prepared, self.config.pathgcn)

    def _maps(self, tiles: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Eq. (1) of each tile for its target, mean over folds: [n, S, S]."""
        each = targets.astype(np.int32)
        per_fold = [
            in_batches(functools.partial(self._explain, variables), tiles, each)
            for variables in self.folds.values()
        ]
        return np.mean(per_fold, axis=0)

    def _keep(self, A: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
        """M of a map of any size, by squares of S pixels.

        M treats patches independently, and squares of one size share one program.
        """
        side = self.image_size
        rows, columns = (-(-length // side) for length in A.shape)
        full = np.zeros((rows * side, columns * side), np.float32)
        full[: A.shape[0], : A.shape[1]] = A
        return np.block(
            [
                [np.asarray(compiled.patch_mask(self.method, part[None]))[0] for part in
                 np.split(row, columns, axis=1)]
                for row in np.split(full, rows)
            ]
        )  # fmt: skip

    @property
    def _static(self) -> tuple[Any, bool]:
        """What the compiled functions below depend on besides their arrays."""
        return self.method, bool(self.config.data.color)

    def _probabilities(self, variables: Variables, *inputs: Any) -> jax.Array:
        return compiled.apply(*self._static, variables, *inputs)[0]

    def _feature(self, variables: Variables, *inputs: Any) -> jax.Array:
        return compiled.apply(*self._static, variables, *inputs)[1]

    def _explain(
        self,
        variables: Variables,
        tiles: UInt8[np.ndarray, "n S S 3"],
        targets: Int[np.ndarray, " n"],
    ) -> jax.Array:
        return compiled.class_activation_map(*self._static, variables, tiles, targets)


def has_map(model: Predictor) -> TypeGuard[TrainedModel]:
    """Whether a model has a class activation map, Eq. (1); see `no_map_reason`."""
    return (
        isinstance(model, TrainedModel)
        and not reads_bags(model)
        and isinstance(model.method, Explainer)
    )


def reads_bags(model: Predictor) -> TypeGuard[TrainedModel]:
    """Whether a model predicts bags of patch features, not images."""
    return isinstance(model, TrainedModel) and "bag" in model.method.inputs.test


def no_map_reason(model: Predictor) -> str:
    """Why a model has no class activation map, for messages."""
    if not isinstance(model, TrainedModel):
        return "an exported file has no gradients, which Eq. (1) requires"
    if reads_bags(model):
        return "the model reads patch features, not images"
    return f"method {model.config.method!r} has none"
