"""A trained model: grades for images of any size, and where it looked.

    model = fof_jax.load("runs/phantom")        # a run: its folds as an ensemble
    grades = model.predict(["a.png", "b.png"])  # .prob [n, K], .spread, .pred
    focus = model.explain("a.png")              # .A [H, W], .keep [h, w]

An image no larger than those that the run was made from is seen as the run saw its test
images, so that it gets the very probabilities of predictions.csv. A larger one is
brought to their scale and cut into overlapping tiles, whose probabilities are averaged.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from fof_jax.data.augment import pipeline
from fof_jax.inference import preprocess, tiling
from fof_jax.inference.outputs import Focus, Grades
from fof_jax.inference.preprocess import Picture, Seen
from fof_jax.methods.base import Method
from fof_jax.models import vit
from fof_jax.types import Variables

BATCH = 8  # tiles that are computed at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model of one fold or several; `loading.load` makes it.

    Attributes:
      method: of the table in `method.py`.
      folds: variables by the folder that they come from.
      config: of the run.
      sides: shortest and longest side of the images that the run was made from, in
        pixels; None where the folder does not say.
    """

    method: Method
    folds: dict[str, Variables]
    config: ConfigDict
    sides: tuple[int, int] | None

    explains: ClassVar[bool] = True  # whether it has gradients, for Eq. (1)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return tuple(self.config.data.classes)

    @property
    def biomarkers(self) -> tuple[str, ...]:
        """Names of the N biomarkers that training saw."""
        return tuple(self.config.data.biomarkers)

    @property
    def image_size(self) -> int:
        """S, the side of what the network sees, in pixels."""
        return int(self.config.data.image_size)

    def predict(self, pictures: Sequence[Picture]) -> Grades:
        """Grades of images of any size.

        Args:
          pictures: files, PIL images, or RGB arrays of 0-255.

        Raises:
          ValueError: an image cannot be used; which, and why. `stream` goes on.
        """
        rows = list(self.stream(pictures))
        for picture, row in zip(pictures, rows, strict=True):
            if row.error[0]:
                name = picture if isinstance(picture, str | Path) else "image"
                raise ValueError(f"{name}: {row.error[0]}")
        empty = np.zeros((0, len(self.classes)))
        return Grades(
            prob=np.concatenate([empty, *(row.prob for row in rows)]),
            spread=np.concatenate([empty, *(row.spread for row in rows)]),
            classes=self.classes,
            error=tuple(row.error[0] for row in rows),
        )

    def stream(self, pictures: Iterable[Picture]) -> Iterator[Grades]:
        """Grades one image after the other; a few are in memory at a time.

        Yields:
          A table of one row an image; one that cannot be used has its reason there.
        """
        waiting: list[Seen | str] = []
        tiles = 0
        for picture in pictures:
            try:
                one: Seen | str = self.see(picture)
                tiles += len(one.tiles)  # type: ignore[union-attr]
            except (ValueError, OSError) as fault:
                one = str(fault)
            waiting.append(one)
            if tiles >= BATCH or len(waiting) >= 4 * BATCH:
                yield from self._grades(waiting)
                waiting, tiles = [], 0
        yield from self._grades(waiting)

    def explain(self, picture: Picture, target: str | None = None) -> Focus:
        """Eq. (1) and (2) for one image.

        Args:
          picture: see `predict`.
          target: a class; None for the predicted one.

        Raises:
          ValueError: no such class, or the image cannot be used.
        """
        index = self.index(target)
        seen = self.see(picture)
        (grades,) = self._grades([seen])
        if index is None:
            index = int(np.argmax(grades.prob[0]))
        parts = np.mean(
            [
                self._in_batches(self._explain, variables, seen.tiles, index)
                for variables in self.folds.values()
            ],
            axis=0,
        )  # [n, S, S]
        whole = seen.pixels.shape[:2]
        A = tiling.stitch(list(parts), seen.corners, (whole[0], whole[1]))
        patch = vit.parse_variant(self.config.encoder)[1]
        keep = self._keep(A)[: whole[0] // patch, : whole[1] // patch]
        return Focus(
            pixels=seen.pixels,
            A=A,
            keep=keep,
            target=self.classes[index],
            prob=grades.prob[0],
            spread=grades.spread[0],
        )

    def index(self, target: str | None) -> int | None:
        """The number of a class; None for None.

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

    def features(self, pictures: Sequence[Picture]) -> Float[np.ndarray, "F n D"]:
        """v = g(x) of each image in each fold; the mean over its tiles."""
        seen = [self.see(picture) for picture in pictures]
        tiles = np.concatenate([one.tiles for one in seen])
        ends = np.cumsum([len(one.tiles) for one in seen])[:-1]
        return np.stack(
            [
                np.stack(
                    [
                        part.mean(axis=0)
                        for part in np.split(
                            self._in_batches(self._feature, variables, tiles), ends
                        )
                    ]
                )
                for variables in self.folds.values()
            ]
        )

    def see(self, picture: Picture) -> Seen:
        """An image at the model's scale, and its tiles; see `seeing.see`."""
        return preprocess.see(picture, self.config.data, self.sides)

    def _grades(self, seen: Sequence[Seen | str]) -> list[Grades]:
        good = [one for one in seen if isinstance(one, Seen)]
        each: Iterator[np.ndarray] = iter(())
        if good:
            tiles = np.concatenate([one.tiles for one in good])
            prob = self.of_folds(tiles)  # [tiles, folds, K]
            ends = np.cumsum([len(one.tiles) for one in good])[:-1]
            each = (part.mean(axis=0) for part in np.split(prob, ends))
        none = np.full((1, len(self.classes)), np.nan)
        rows = []
        for one in seen:
            fault = one if isinstance(one, str) else ""
            of_folds = none if fault else next(each)
            rows.append(
                Grades(
                    prob=of_folds.mean(axis=0, keepdims=True),
                    spread=of_folds.std(axis=0, keepdims=True),
                    classes=self.classes,
                    error=(fault,),
                )
            )
        return rows

    def _keep(self, A: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
        """M, square by square: a patch knows itself alone, and one program serves."""
        side = self.image_size
        rows, columns = (-(-length // side) for length in A.shape)
        full = np.zeros((rows * side, columns * side), np.float32)
        full[: A.shape[0], : A.shape[1]] = A
        return np.block(
            [
                [np.asarray(self.method.keep(jnp.asarray(part)[None]))[0] for part in
                 np.split(row, columns, axis=1)]
                for row in np.split(full, rows)
            ]
        )  # fmt: skip

    def of_folds(
        self, tiles: UInt8[np.ndarray, "n S S 3"]
    ) -> Float[np.ndarray, "n F K"]:
        """The probabilities of each tile in each fold."""
        return np.stack(
            [
                self._in_batches(self._probabilities, variables, tiles)
                for variables in self.folds.values()
            ],
            axis=1,
        )

    def _in_batches(
        self, compiled: Any, variables: Variables, tiles: np.ndarray, *rest: Any
    ) -> np.ndarray:
        """Batches of one size, so that one program serves; the last is filled up."""
        size = BATCH if len(tiles) > 1 else 1
        parts = []
        for first in range(0, len(tiles), size):
            part = tiles[first : first + size]
            missing = size - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            out = compiled(variables, full, *rest)
            parts.append(np.asarray(out, np.float64)[: len(part)])
        return np.concatenate(parts)

    def _normalised(self, tiles: jax.Array) -> jax.Array:
        return pipeline.normalise(tiles, color=self.config.data.color)

    @functools.cached_property
    def _probabilities(self) -> Any:
        def apply(variables: Variables, tiles: jax.Array) -> jax.Array:
            return jax.nn.softmax(
                self.method.predict(variables, self._normalised(tiles))
            )

        return jax.jit(apply)

    @functools.cached_property
    def _feature(self) -> Any:
        return jax.jit(lambda v, tiles: self.method.feature(v, self._normalised(tiles)))

    @functools.cached_property
    def _explain(self) -> Any:
        def apply(variables: Variables, tiles: jax.Array, target: jax.Array):
            each = jnp.full(len(tiles), target, jnp.int32)
            return self.method.explain(variables, self._normalised(tiles), each)

        return jax.jit(apply)
