"""The model of a finished fold, with its test regions."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from fof_jax.data import images
from fof_jax.data.store import Store
from fof_jax.inference import bags, load
from fof_jax.inference.compiled import BATCH
from fof_jax.inference.model import TrainedModel
from fof_jax.report.run import Run


@dataclasses.dataclass(frozen=True, eq=False)
class TestedFold:
    """The model of a finished fold and its test regions.

    Attributes:
      fold: number of the fold.
      data: the store.
      rows: positions of the test regions, or bags, in the store.
      model: of this fold.
    """

    fold: int
    data: Store
    rows: Int[np.ndarray, " n"]
    model: TrainedModel

    def pixels(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """A region as stored; the model preprocesses it."""
        return images.decode(self.data.encoded(row))

    def features(self) -> Float[np.ndarray, "n D"]:
        """v = g(x) of every test region or bag, in the order of `rows`."""
        if self.data.bags is not None:
            predictor = bags.BagPredictor(self.model)
            index = self.data.bags
            return np.stack(
                [predictor.features(bags.pad(index.read(int(i)))) for i in self.rows]
            )
        parts = [  # a batch of regions in memory at a time
            self._features_of(self.rows[k : k + BATCH])
            for k in range(0, len(self.rows), BATCH)
        ]
        return np.concatenate([part[0] for part in parts])

    def _features_of(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "F n D"]:
        known = self.data.omics if self.model.omic_names else None
        omics = None if known is None else known[rows]
        return self.model.features([self.pixels(int(i)) for i in rows], omics)


@contextlib.contextmanager
def reporting_missing_fields() -> Iterator[None]:
    """Turns access to a missing config field into a ValueError."""
    try:
        yield
    except AttributeError as error:  # of ConfigDict
        raise ValueError(
            f"the run's config has no field {str(error).strip(chr(34))}: it was "
            "written by an older version"
        ) from error


def open_fold(
    run: Run, fold: int | None, open_data: Callable[[ConfigDict], Store]
) -> TestedFold:
    """Opens the model of a finished fold and its test regions.

    Args:
      run: of `read_run`.
      fold: its number; None: the first finished one.
      open_data: opens the store of a config.

    Raises:
      ValueError: no such finished fold, a missing checkpoint or store, or a store of
        another table.
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
    with reporting_missing_fields():
        data = open_data(config)
    if data.table_hash != run.table_hash:
        raise ValueError(
            f"the store at {Path(config.data.dir) / config.data.name} was built from "
            "another table than the run's"
        )
    with reporting_missing_fields():
        model = load.load_trained(folder)
    position = {name: i for i, name in enumerate(data.images)}
    names = run.splits["folds"][chosen]["test"]["images"]
    return TestedFold(
        fold=chosen,
        data=data,
        rows=np.array([position[name] for name in names]),
        model=model,
    )
