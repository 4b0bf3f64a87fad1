"""The rows of the global batch that a network runs on, where a device has some of them.

Batch statistics and random masks have to be those of the global batch whatever the
number of devices. Outside of `device_rows` a network has the whole batch.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Gather = Callable[[jax.Array], jax.Array]


class DeviceRows(NamedTuple):
    """Rows of one device.

    Attributes:
      gather: rows of this device to the rows of all devices, in order.
      row_index: key of each row, distinct in the global batch; None draws the masks
        of a device at once.
    """

    gather: Gather
    row_index: Int[Array, " B"] | None = None


_rows: contextvars.ContextVar[DeviceRows | None] = contextvars.ContextVar(
    "device_rows", default=None
)


@contextlib.contextmanager
def device_rows(
    gather: Gather, row_index: Int[Array, " B"] | None = None
) -> Iterator[None]:
    """Networks traced inside run on one device's rows of the global batch.

    Args:
      gather, row_index: see `DeviceRows`.
    """
    token = _rows.set(DeviceRows(gather, row_index))
    try:
        yield
    finally:
        _rows.reset(token)


def sum_over_devices(local: jax.Array) -> jax.Array:
    """The sum of an array over all devices; the array itself outside."""
    rows = _rows.get()
    return local if rows is None else rows.gather(local[None]).sum(axis=0)


def keep_mask(key: jax.Array, keep: float, shape: tuple[int, ...]) -> Bool[Array, "*S"]:
    """True with probability `keep`; each row is drawn by its own index.

    Args:
      key: the same on every device.
      keep: probability of True.
      shape: of the mask; its first axis has this device's rows.

    Returns:
      the mask; drawn at once without an index.
    """
    rows = _rows.get()
    if rows is None or rows.row_index is None:
        return jax.random.bernoulli(key, keep, shape)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows.row_index))
    return jax.vmap(lambda k: jax.random.bernoulli(k, keep, shape[1:]))(keys)
