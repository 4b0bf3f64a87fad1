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
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from fof_jax import tiling, vit, weights
from fof_jax.data import atomic, augment, images, store
from fof_jax.data.stain import macenko
from fof_jax.method import Method
from fof_jax.program import build_method
from fof_jax.shapes import Variables

ABOUT = "model.json"  # in a fold's folder: what reading its weights needs
BATCH = 8  # tiles that are computed at a time
# Sizes of a list differ: "_" binds none, so that each may have its own.
Picture = str | Path | Image.Image | UInt8[np.ndarray, "_ _ 3"]


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


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """An image as the model sees it.

    Attributes:
      pixels: at the model's scale.
      tiles: squares of S pixels.
      corners: top and left of each; one at (0, 0) where nothing was cut.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    tiles: UInt8[np.ndarray, "n S S 3"]
    corners: list[tiling.Corner]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model of one fold or several; `load` makes it.

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

    @functools.cached_property
    def card(self) -> str:
        """What the model is, of which data, how good, whose weights: Markdown."""
        from fof_jax import card

        return card.of_run(self)

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
        patch = vit.variant(self.config.encoder)[1]
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
        """An image at the model's scale, and its tiles.

        Raises:
          ValueError: a file that is no image, or is not accepted (`data/images.py`).
        """
        pixels = _pixels(picture)
        options, side = self.config.data, self.image_size
        if options.stain == "macenko":
            pixels = macenko(pixels)
        least, most = self.sides or (side, side)
        if max(pixels.shape[:2]) > max(most, side):
            if options.test_view == "resize" and most > side:
                pixels = _scaled(pixels, side / ((least + most) / 2))
            if min(pixels.shape[:2]) >= side:
                at = tiling.corners(pixels.shape[0], pixels.shape[1], side)
                tiles = [pixels[y : y + side, x : x + side] for y, x in at]
                return Seen(pixels, np.stack(tiles), at)
        corner = (0.5, 0.5) if options.test_view == "crop" else None
        name = str(picture) if isinstance(picture, str | Path) else "image"
        square = images.fit_region(
            pixels, side, small=options.small, name=name, corner=corner
        )
        return Seen(square, square[None], [(0, 0)])

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
        return augment.normalise(tiles, color=self.config.data.color)

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


def load(path: str | Path) -> Model:
    """A trained model from what training has left.

    Args:
      path: a run's folder (all its finished folds), a fold's folder, or a step below
        its checkpoints. A fold's folder may have been copied elsewhere alone. Or a
        file of `export --to=stablehlo`.

    Raises:
      ValueError: it is none of these, its folds are of different models, or a
        checkpoint is damaged.
    """
    path = Path(path)
    if path.is_file():
        from fof_jax import exported

        return exported.load(path)
    places = _places(path)
    about = _about(places[0])
    config = ConfigDict(about["config"])
    sides = about.get("sides")
    return Model(
        method=method_of(config),
        folds={
            str(place): jax.tree.map(jnp.asarray, weights.read(place))
            for place in places
        },
        config=config,
        sides=tuple(sides) if sides else None,
    )


def method_of(config: ConfigDict) -> Method:
    """The method of a run, without its data."""
    bare = store.without_images(
        classes=config.data.classes,
        biomarkers=config.data.biomarkers,
        float_markers=config.data.float_markers,
    )
    try:
        return build_method(config, bare)
    except AttributeError as lacking:  # ml_collections' word for a missing field
        raise ValueError(
            f"checkpoint: its configuration has no field {lacking}; it was made by an "
            "earlier version of this program. Load it with that version, or train "
            "again."
        ) from None


def describe(folder: Path, config: ConfigDict, data: store.Store) -> None:
    """Writes into a fold's folder what reading it wants, so that it can travel alone.

    Args:
      folder: of the fold.
      config: of the run.
      data: what it is trained on.
    """
    about = {
        "config": config.to_dict(),
        "sides": [int(data.sizes.min()), int(data.sizes.max())],
    }
    atomic.write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def _places(path: Path) -> list[Path]:
    """The folds of a run that have been tested, or the one place that was named."""
    if not path.is_dir():
        raise ValueError(
            f"checkpoint: {path} does not exist. Expected the folder of a run or of "
            "one of its folds."
        )
    folds = sorted(
        (p for p in path.glob("fold_*") if p.name.removeprefix("fold_").isdigit()),
        key=lambda p: int(p.name.removeprefix("fold_")),
    )
    if not folds:
        return [path]
    finished = [p for p in folds if (p / "predictions.csv").exists()]
    if not finished:
        raise ValueError(
            f"checkpoint: no fold of {path} is finished. Let training end, or name one "
            f"fold: {folds[0]}."
        )
    return finished


def _about(place: Path) -> dict[str, Any]:
    here = [place, *place.resolve().parents[:3]]
    for folder in here:
        if (folder / ABOUT).exists():
            return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for folder in here:  # runs of before, whose folds did not carry it
        if (folder / "config.json").exists():
            text = (folder / "config.json").read_text(encoding="utf-8")
            return {"config": json.loads(text)["config"]}
    raise ValueError(
        f"checkpoint: {place} has no {ABOUT}. Expected the folder of a run, of a fold, "
        "or a step below its checkpoints."
    )


def _pixels(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"image: an array of shape {picture.shape} and {picture.dtype}; "
                "expected [H, W, 3] and uint8 (RGB, 0-255)."
            )
        return picture
    with images.quiet_decoding():
        if isinstance(picture, Image.Image):
            return np.array(picture.convert("RGB"))
        path = Path(picture)
        images.check_region(path)
        return images.decode(images.encode_region(path))


def _scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    size = [max(1, round(factor * n)) for n in pixels.shape[1::-1]]
    image = Image.fromarray(pixels)
    return np.array(image.resize((size[0], size[1]), Image.Resampling.BICUBIC))
