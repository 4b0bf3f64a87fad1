"""A finished fold's model and the regions that it was tested on."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from fof_jax.data import images
from fof_jax.data.store import Store
from fof_jax.inference import load
from fof_jax.inference import model as inference_model
from fof_jax.report.run import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Tested:
    """One fold's model and its test regions.

    Attributes:
      fold: its number.
      data: the store.
      rows: positions of the test regions.
      model: of this fold alone.
    """

    fold: int
    data: Store
    rows: Int[np.ndarray, " n"]
    model: inference_model.Model

    def pixels(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """A region as it is stored; the model brings it to its own size and stain."""
        return images.decode(self.data.encoded(row))

    def features(self) -> Float[np.ndarray, "n D"]:
        """v = g(x) of every test region, in the order of `rows`."""
        size = inference_model.BATCH  # regions in memory at a time
        parts = [
            self.model.features([self.pixels(int(i)) for i in self.rows[k : k + size]])
            for k in range(0, len(self.rows), size)
        ]
        return np.concatenate([part[0] for part in parts])


@contextlib.contextmanager
def of_this_version() -> Iterator[None]:
    """Says in a ValueError that a configuration lacks a field of this version."""
    try:
        yield
    except AttributeError as error:  # of ConfigDict
        raise ValueError(
            f"the run's configuration has no field {str(error).strip(chr(34))}: an "
            "older version has made it"
        ) from error


def open_fold(
    run: Run, fold: int | None, open_data: Callable[[ConfigDict], Store]
) -> Tested:
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
    with of_this_version():
        data = open_data(config)
    if data.table_hash != run.table_hash:
        raise ValueError(
            f"the store at {Path(config.data.dir) / config.data.name} is of another "
            "table than the run"
        )
    with of_this_version():
        model = load.load(folder)
    position = {name: i for i, name in enumerate(data.images)}
    names = run.splits["folds"][chosen]["test"]["images"]
    return Tested(
        fold=chosen,
        data=data,
        rows=np.array([position[name] for name in names]),
        model=model,
    )
