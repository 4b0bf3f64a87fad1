"""Cache of the bags of a store, and the batches' part that is read from it."""

import dataclasses

import numpy as np
from jaxtyping import Int

from fof_jax.data.bags import padding
from fof_jax.data.bags.index import BagIndex
from fof_jax.data.bags.reading import BagValues
from fof_jax.data.store import Store
from fof_jax.types import Bag


@dataclasses.dataclass(frozen=True, eq=False)
class BagCache:
    """Bags of a store; created by `fof_jax.data.cache.open_cache`.

    Attributes:
      store: source of the bags; `max_tokens` caps them in training.
      kept: bags by row, None until one is read; or None to read files every time.
    """

    store: Store
    kept: list[BagValues | None] | None = None

    @property
    def cached(self) -> bool:
        """True if each file is read only once, in this process."""
        return self.kept is not None

    @property
    def index(self) -> BagIndex:
        """The store's."""
        if self.store.bags is None:
            raise ValueError(f"{self.store.folder} holds images, expected bags.")
        return self.store.bags

    def inputs(
        self,
        rows: Int[np.ndarray, " B"],
        epoch: Int[np.ndarray, " B"],
        *,
        local: slice,
        seed: int | None,
    ) -> dict[str, Bag]:
        """The bags of a batch; thread-safe.

        Args:
          rows: positions of the global batch, whose largest bag determines T.
          epoch: of each row; keys the sampling.
          local: rows of this process.
          seed: of the sampling; None for all patches.

        Returns:
          {"bag": bags of the local rows}.
        """
        most = None if seed is None else self.store.max_tokens
        largest = int(self.index.counts[rows].max())
        length = padding.bucket(largest if most is None else min(largest, most))
        bags = []
        for row, at in zip(rows[local].tolist(), epoch[local].tolist(), strict=True):
            bag = self.read(row)
            kept = padding.sample(len(bag.features), most, (seed or 0, row, at))
            if kept is not None:
                bag = BagValues(bag.features[kept], bag.coords[kept])
            bags.append(bag)
        return {"bag": padding.pad(bags, length)}

    def read(self, row: int) -> BagValues:
        """All patches of one bag."""
        if self.kept is None:
            return self.index.read(row)
        bag = self.kept[row]
        if bag is None:
            bag = self.kept[row] = self.index.read(row)
        return bag
