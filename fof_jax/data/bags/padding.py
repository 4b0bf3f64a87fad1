"""Pads bags of different numbers of patches to one, and samples patches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fof_jax.data.bags.reading import BagValues
from fof_jax.types import Bag

SMALLEST = 16


def bucket(count: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, … that is at least `count`.

    Two lengths per power of two: few programs are compiled, and at most a third of a
    sequence is padding.
    """
    length = SMALLEST
    while length < count:
        middle = length + length // 2
        if middle >= count:
            return middle
        length *= 2
    return length


def sample(
    count: int, most: int | None, key: tuple[int, ...]
) -> Int[np.ndarray, " n"] | None:
    """Patches of a bag that are kept: `most` without replacement, in file order.

    Args:
      count: N.
      most: largest number of patches; None for all.
      key: seed, record and epoch; equal keys give equal patches.

    Returns:
      Positions in ascending order; None for all patches.
    """
    if most is None or count <= most:
        return None
    chosen = np.random.default_rng(key).choice(count, most, replace=False)
    return np.sort(chosen)


def pad(bags: Sequence[BagValues], length: int) -> Bag:
    """Stacks bags to [B, length, …], zeros where there is no patch.

    Args:
      bags: of at most `length` patches each.
      length: T.

    Returns:
      NumPy arrays, features widened to float32.
    """
    shape = (len(bags), length)
    out = Bag(
        features=np.zeros((*shape, bags[0].features.shape[1]), np.float32),
        coords=np.zeros((*shape, 2), np.float32),
        valid=np.zeros(shape, bool),
    )
    for row, bag in enumerate(bags):
        count = len(bag.features)
        out.features[row, :count] = bag.features
        out.coords[row, :count] = bag.coords
        out.valid[row, :count] = True
    return out
