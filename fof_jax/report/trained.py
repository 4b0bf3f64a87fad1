"""A trained fold and the regions that it was tested on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax import method, weights
from fof_jax.data import augment, loader
from fof_jax.data.store import Store
from fof_jax.program import build_method
from fof_jax.report.run import Run
from fof_jax.shapes import Variables


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """One fold's model and its test regions.

    Attributes:
      fold: its number.
      data: the store.
      rows: positions of the test regions.
      side: of the images that the model sees, in pixels.
      method, variables: the model.
      color: False where images are greyscale, standardised.
    """

    fold: int
    data: Store
    rows: Int[np.ndarray, " n"]
    side: int
    method: method.Method
    variables: Variables
    color: bool

    def features(self) -> Float[np.ndarray, "n D"]:
        """v = g(x) of every test region, in the order of `rows`."""
        apply = jax.jit(
            lambda variables, pixels: self.method.feature(
                variables, augment.normalise(pixels, color=self.color)
            )
        )
        parts = [apply(self.variables, x) for x in self._pixels(self.rows, 8)]
        return np.concatenate(parts)[: len(self.rows)].astype(np.float64)

    def explain(
        self, row: int, target: int
    ) -> tuple[Float[np.ndarray, "H W"], Bool[np.ndarray, "h w"]]:
        """A and M of one region (its position in the store) for a class."""
        pixels = next(self._pixels(np.array([row]), 1))
        A, keep = self._explain(self.variables, pixels, jnp.array([target]))
        return np.asarray(A)[0], np.asarray(keep)[0]

    @functools.cached_property
    def _explain(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def both(variables, pixels, target):
            image = augment.normalise(pixels, color=self.color)
            A = self.method.explain(variables, image, target)
            return A, self.method.keep(A)

        return jax.jit(both)

    def _pixels(self, rows: np.ndarray, size: int) -> Iterator[jax.Array]:
        """Batches of uint8 images as testing sees them; the last is filled up."""
        for batch in loader.eval_batches(
            self.data, rows, batch_size=size, image_size=self.side, cache="none"
        ):
            yield jnp.asarray(batch.image)


def open_fold(
    run: Run, fold: int | None, open_data: Callable[[ConfigDict], Store]
) -> Trained:
    """The model of a finished fold, with the data it was tested on.

    Args:
      run: of `read_run`.
      fold: its number; None takes the first that is finished.
      open_data: the store that a configuration describes.

    Raises:
      ValueError: no such fold is finished, its checkpoint or its data are not there,
        or the data are of another table.
    """
    finished = [one.number for one in run.finished]
    if not finished:
        raise ValueError("no fold is finished")
    if fold is not None and fold not in finished:
        raise ValueError(f"fold {fold} is not finished")
    chosen = finished[0] if fold is None else fold
    folder = run.workdir / f"fold_{chosen}"
    if not (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} has no checkpoints")
    if run.splits is None:
        raise ValueError("splits.json is missing")
    config = ConfigDict(run.config)
    data = open_data(config)
    if data.table_hash != run.table_hash:
        raise ValueError(
            f"the store at {Path(config.data.dir) / config.data.name} is of another "
            "table than the run"
        )
    position = {name: i for i, name in enumerate(data.images)}
    tested = run.splits["folds"][chosen]["test"]["images"]
    return Trained(
        fold=chosen,
        data=data,
        rows=np.array([position[name] for name in tested]),
        side=config.data.image_size,
        method=build_method(config, data),
        variables=jax.tree.map(jnp.asarray, weights.read(folder)),
        color=config.data.color,
    )
