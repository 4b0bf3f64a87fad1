"""Prediction of bags: HDF5 files of patch features, by a model trained on them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.data.bags import layouts, padding, reading
from fof_jax.data.bags.layouts import Header
from fof_jax.inference.inputs import ImageInput, read_table
from fof_jax.inference.model import TrainedModel
from fof_jax.inference.names import printable, unique
from fof_jax.inference.outputs import GradePredictions
from fof_jax.inference.table_form import TableForm
from fof_jax.methods.base import standardize, standardize_bag
from fof_jax.types import Bag, Batch, Output, Params, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class BagPrediction:
    """Predicted grade of a bag, and the map over its patches.

    Attributes:
      grades: one row.
      A: map for `target`, mean over folds; for mean pooling and ABMIL their evidence.
      keep: M of the map; None where the method has none.
      target: class that A explains; ABMIL's attention explains none in particular.
      coords: upper left corners (x, y) as the file has them.
      side: of a patch, in the unit of the coordinates.
      unit: px (level-0 pixels) or um (micrometers).
    """

    grades: GradePredictions
    A: Float[np.ndarray, " N"]
    keep: Bool[np.ndarray, " N"] | None
    target: str
    coords: Float[np.ndarray, "N 2"]
    side: float
    unit: str


def find(
    source: Path, *, exclude: Path | None = None, form: TableForm | None = None
) -> list[ImageInput]:
    """Lists the HDF5 files of a file, a folder or a table, in order.

    Args:
      source: a file; a folder, searched recursively; or a CSV with a column `image`
        and optional columns `patient`, `grade`, `slide` (file of the slide) and `mpp`
        (of a slide that states none).
      exclude: a folder to skip, such as the output folder.
      form: column names and words of the run's table; None: the standard names.

    Raises:
      ValueError: there is none, or a faulty table.
    """
    expected = (
        "The model was trained on patch features: pass an HDF5 file "
        f"({', '.join(layouts.SUFFIXES)}), a folder of them, or a CSV with a column "
        "'image'."
    )
    if not source.exists():
        raise ValueError(f"images: {source} does not exist. {expected}")
    if source.suffix.lower() == ".csv":
        listed = read_table(source, form)
        foreign = [one.name for one in listed if not layouts.is_bag(one.path)]
        if foreign:
            raise ValueError(f"images: {foreign[0]} is no HDF5 file. {expected}")
        return listed
    if source.is_dir():
        paths = sorted(
            path
            for path in source.rglob("*")
            if layouts.is_bag(path)
            and path.is_file()
            and (exclude is None or exclude not in path.parents)
        )
        names = [path.relative_to(source).as_posix() for path in paths]
    else:
        paths = [source] if layouts.is_bag(source) else []
        names = [source.name]
    if not paths:
        raise ValueError(f"images: {source} is or holds no HDF5 file. {expected}")
    shown = unique([printable(name) for name in names])
    return [ImageInput(p, n, n) for p, n in zip(paths, shown, strict=True)]


class BagPredictor:
    """Compiled functions of a model for bags; a program for each padded length."""

    def __init__(self, model: TrainedModel):
        """Compiles nothing yet."""
        self.model = model
        self._probabilities = jax.jit(self._softmax)
        self._features = jax.jit(self._vector)
        self._map = jax.jit(self._class_map)

    def grade(self, path: Path, *, patch_size: float | None = None) -> GradePredictions:
        """Predicts one file, whole, without its map.

        Args:
          path, patch_size: as in `predict`.

        Raises:
          ValueError: as in `predict`.
        """
        return self._grades(self._read(path, patch_size)[1])

    def predict(
        self,
        path: Path,
        *,
        target: str | None = None,
        patch_size: float | None = None,
    ) -> BagPrediction:
        """Predicts one file, whole, with its map.

        Args:
          path: of the file; checked first, as in `data build`.
          target: class that the map explains; None for the predicted one.
          patch_size: side of a patch in level-0 pixels, for files that state none.

        Raises:
          ValueError: the file is no valid bag, or its features have another length
            than those of the training; no such class.
        """
        index = self.model.class_index(target)
        header, bag = self._read(path, patch_size)
        grades = self._grades(bag)
        if index is None:
            index = int(grades.prob[0].argmax())
        maps = [self.map_of(v, bag, index) for v in self.model.folds.values()]
        A = np.mean(maps, axis=0)[: header.count]
        return BagPrediction(
            grades=grades,
            A=A,
            keep=self.keep(A),
            target=self.model.classes[index],
            coords=reading.read_coords(path),
            side=header.patch_size,
            unit=header.unit,
        )

    def _read(self, path: Path, patch_size: float | None) -> tuple[Header, Bag]:
        """Checks, reads and pads a file."""
        header = reading.check(path, patch_size)
        width = features_width(next(iter(self.model.folds.values())).params)
        if header.width != width:
            raise ValueError(
                f"{path.name}: features of length {header.width}, and the model was "
                f"trained on {width}. Extract them with the encoder of the training."
            )
        return header, pad(reading.read(path, header))

    def _grades(self, bag: Bag) -> GradePredictions:
        prob = np.concatenate(
            [
                np.asarray(self._probabilities(variables, bag), np.float64)
                for variables in self.model.folds.values()
            ]
        )  # [F, K]
        return GradePredictions(
            prob=prob.mean(axis=0, keepdims=True),
            spread=prob.std(axis=0, keepdims=True),
            classes=self.model.classes,
            error=("",),
            warning=("",),
        )

    def features(self, bag: Bag) -> Float[np.ndarray, " D"]:
        """v = g(x) of one padded bag, by the first fold."""
        variables = next(iter(self.model.folds.values()))
        return np.asarray(self._features(variables, bag))[0]

    def map_of(
        self, variables: Variables, bag: Bag, target: int
    ) -> Float[np.ndarray, " T"]:
        """The map of one fold for a class, over the padded patches of one bag."""
        each = jnp.full(1, target, jnp.int32)
        return np.asarray(self._map(variables, bag, each))[0]

    def keep(self, A: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"] | None:
        """M of a map without padding; None where the method has none."""
        if not hasattr(self.model.method, "patch_mask"):
            return None
        mask = self.model.method.patch_mask(jnp.asarray(A, jnp.float32)[None, :, None])
        return np.asarray(mask)[0, :, 0]

    def _vector(self, variables: Variables, bag: Bag) -> jax.Array:
        return self._output(variables, bag).features

    def _softmax(self, variables: Variables, bag: Bag) -> jax.Array:
        return jax.nn.softmax(self._output(variables, bag).logits)

    def _output(self, variables: Variables, bag: Bag) -> Output:
        batch = standardize(Batch(image=None, bag=bag), variables.frozen)
        return self.model.method.apply(variables, batch)

    def _class_map(
        self, variables: Variables, bag: Bag, target: Int[jax.Array, " B"]
    ) -> Float[jax.Array, "B T"]:
        bag = standardize_bag(bag, variables.frozen)
        return self.model.method.bag_map(variables, bag, target)


def pad(values: reading.BagValues) -> Bag:
    """One bag, padded to a length that many share."""
    return padding.pad([values], padding.bucket(len(values.features)))


def features_width(params: Params) -> int:
    """D of the features that a network of bags was trained on."""
    tree = params.get("encoder", params)
    layer = tree.get("embedding", tree.get("classifier"))
    return int(layer["kernel"].shape[0])
