"""`data.cache=device`: the images of a run in the memory of its devices.

Every device holds all images as uint8. Batches come without pixels, which a compiled
program gathers by `Batch.index`, so that none crosses from the host while a run trains.
The step is the program of `data.cache=ram`, and so are its numbers, bit for bit.
"""

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from fof_jax.data import cache as image_cache
from fof_jax.data import loader, prepare, store
from fof_jax.training import parallel
from fof_jax.types import Batch

NAME = "device"
_LARGEST_SHARE = 0.5  # of the free memory: a step needs the rest
_GIB = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceImages(image_cache.ImageCache):
    """Images of a store in the memory of each device.

    Attributes:
      resident: pixels, uint8 [n, S, S, 3], whole on every device.
      gather: rows of it, see `parallel.gather_rows`.
    """

    resident: Any = None
    gather: Any = None

    @property
    def cached(self) -> bool:
        """True: images were decoded once."""
        return True

    def inputs(
        self,
        rows: Int[np.ndarray, " B"],
        epoch: Int[np.ndarray, " B"],
        *,
        local: slice,
        seed: int | None,
    ) -> dict[str, Any]:
        """No pixels: `fill` gathers them by `Batch.index`."""
        return {}

    def corners(
        self,
        rows: Int[np.ndarray, " B"],
        epoch: Int[np.ndarray, " B"],
        seed: int | None,
    ) -> Float[np.ndarray, "B 2"] | None:
        """None: crops are refused by `open_images`."""
        return None


def open_images(
    config: ConfigDict, data: store.Store, devices: Sequence[Sequence[jax.Device]]
) -> image_cache.Cache:
    """Opens the cache that a config asks for, in host or in device memory.

    Args:
      config: `data.cache`, `data.image_size` and `data.threads`.
      data: images or bags.
      devices: of each stage of the run.

    Returns:
      The cache; `DeviceImages` is filled.

    Raises:
      ValueError: the cache needs more memory than there is, with both figures; or
        `device` with bags, random crops, or stages on different devices.
    """
    size = config.data.image_size
    if config.data.cache != NAME:
        return loader.open_cache(data, size, config.data.cache)
    require_whole_images(data, size)
    if any(list(one) != list(devices[-1]) for one in devices):
        raise ValueError(
            "data.cache='device': the stages of this run use different devices. Pass "
            "--config.devices, or --config.data.cache=ram."
        )
    require_room(needed(len(data), size), devices[-1])
    reader = image_cache.ImageCache(data, size)
    pixels = np.empty((len(data), size, size, 3), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = reader.read(np.array([i]))[0]

    threads = image_cache.decoding_threads(config)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decode, range(len(data))):
            pass
    resident = parallel.on_every_device(pixels, devices[-1])
    gather = parallel.gather_rows(devices[-1])
    return DeviceImages(data, size, resident=resident, gather=gather)


def on_host(cache: image_cache.ImageCache) -> image_cache.ImageCache:
    """A cache whose batches have pixels: the same one, or one that decodes again."""
    if not isinstance(cache, DeviceImages):
        return cache
    return image_cache.ImageCache(cache.store, cache.image_size)


def fill(cache: image_cache.Cache, placed: Batch) -> Batch:
    """A batch with its pixels, gathered on the devices where `cache` has them there.

    Args:
      cache: of the run.
      placed: a batch [devices, b, …].
    """
    if not isinstance(cache, DeviceImages):
        return placed
    image = cache.gather(cache.resident, placed.index)
    return dataclasses.replace(placed, image=image)


def fit(config: ConfigDict) -> str:
    """What the images of a config take on each device, and what is free there.

    Raises:
      ValueError: they do not fit, or as `open_images`; the store does not exist.
    """
    size = config.data.image_size
    devices = parallel.choose_devices(config.batch_size, config.devices)
    try:
        data = store.open_store(config.data.dir, config.data.name)
    except ValueError:
        if prepare.source(config) != "phantom":
            raise
        count = config.data.regions  # generated at the first run
    else:
        options = dataclasses.replace(
            data.options,
            train_view=config.data.train_view,
            test_view=config.data.test_view,
        )
        require_whole_images(dataclasses.replace(data, options=options), size)
        count = len(data)
    require_room(needed(count, size), devices)
    return (
        f"{count} images take {needed(count, size) / _GIB:.2f} GiB on each of "
        f"{len(devices)} device(s), {room(devices) / _GIB:.2f} GiB are free there"
    )


def needed(images: int, image_size: int) -> int:
    """Bytes on each device for images of `image_size` x `image_size` pixels."""
    return images * image_size**2 * 3


def require_whole_images(data: store.Store, image_size: int) -> None:
    """Checks that a store is one of images, each read whole.

    Raises:
      ValueError: bags of patch features; crops of images that are larger.
    """
    if data.bags is not None:
        raise ValueError(
            "data.cache='device' holds images, and this store has bags of patch "
            "features. Pass --config.data.cache=ram."
        )
    crops = "crop" in (data.options.train_view, data.options.test_view)
    if crops and bool((data.sizes != image_size).any()):
        raise ValueError(
            f"data.cache='device' holds images of {image_size}x{image_size} pixels, "
            "and crops are read from images of their stored size. Pass "
            "--config.data.cache=ram, or the views resize."
        )


def room(devices: Sequence[jax.Device]) -> int:
    """Free bytes of the device that has the least; CPU devices share the host's."""
    mine = [d for d in devices if d.process_index == jax.process_index()]
    free = []
    for device in mine:
        statistics = device.memory_stats() or {}
        if "bytes_limit" in statistics:
            free.append(statistics["bytes_limit"] - statistics["bytes_in_use"])
        else:
            # The array on the host that is copied from takes as much once more.
            free.append(image_cache.available_memory() // (len(mine) + 1))
    return min(free)


def require_room(bytes_needed: int, devices: Sequence[jax.Device]) -> None:
    """Checks that images fit beside a step.

    Raises:
      ValueError: more than half of the free memory of a device, with both figures.
    """
    free = room(devices)
    if bytes_needed > _LARGEST_SHARE * free:
        raise ValueError(
            f"data.cache='device' needs {bytes_needed / _GIB:.2f} GiB on each of "
            f"{len(devices)} device(s); {free / _GIB:.2f} GiB are free there, and at "
            "most half may be used. Pass --config.data.cache=ram."
        )
