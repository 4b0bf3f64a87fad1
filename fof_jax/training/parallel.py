"""Data parallelism: the only file that uses pmap and all_gather.

State is broadcast (`in_axes=None`, `out_axes=None`), batches carry a leading device
axis. `jax.pmap` is jit + shard_map underneath; should it ever go, this file changes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Shaped

from fof_jax.methods.base import Method, standardize
from fof_jax.training.compilation import Ahead
from fof_jax.training.state import Schedule, Step, TrainState, update
from fof_jax.types import Batch, Params, Variables

AXIS = "batch"


def choose_devices(batch_size: int, requested: int | None) -> list[jax.Device]:
    """The devices to use: as many as divide the batch, or the number asked for.

    Every process gives the same number of its own; they come in the order of the
    processes, so that a process's rows of a batch lie together.

    Args:
      batch_size: of the global batch.
      requested: how many devices of each process, None for as many as possible.

    Raises:
      ValueError: the batch does not divide among the processes; more devices asked
        for than there are, or a number that does not divide the batch.
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise ValueError(
            f"batch_size: {batch_size} does not divide among {processes} processes. "
            f"Set --config.batch_size to a multiple of {processes}."
        )
    rows = batch_size // processes
    by_process = [jax.local_devices(process_index=p) for p in range(processes)]
    most = min(len(devices) for devices in by_process)
    fits = [n for n in range(1, most + 1) if rows % n == 0]
    count = max(fits) if requested is None else requested
    if not 1 <= count <= most:
        raise ValueError(
            f"devices: asked for {count}, but this machine has {most} "
            f"({by_process[0][0].platform}). Pass --config.devices=1…{most}."
        )
    if count not in fits:
        among = f" ({rows} rows for each of {processes} processes)"
        raise ValueError(
            f"devices: a batch of {batch_size}{among if processes > 1 else ''} does "
            f"not divide by {count}. Pass --config.devices with one of {fits}, or "
            "another --config.batch_size."
        )
    return [device for devices in by_process for device in devices[:count]]


def to_devices(batch: Batch, count: int) -> Batch:
    """[B, …] to [devices, B / devices, …], in order."""
    # Not reshape(count, -1): a cohort without float markers has arrays of size 0.
    return jax.tree.map(
        lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), batch
    )


def place(batch: Batch, devices: Sequence[jax.Device]) -> Batch:
    """Starts the transfer of a batch [B, …] to the devices, split for `train_step`.

    Of several processes each sends its own rows. Returns at once; JAX copies while
    the device computes.
    """
    spread, _ = _shardings(devices)
    processes = jax.process_count()
    cut = to_devices(batch, len(devices) // processes)
    if processes == 1:
        return jax.device_put(cut, spread)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(spread, np.asarray(a)), cut
    )


def place_several(batches: Sequence[Batch], devices: Sequence[jax.Device]) -> Batch:
    """Starts the transfer of n batches to the devices, as `train_steps` takes them.

    Returns:
      One batch [devices, n, b, …], where b = B / devices.
    """
    spread, _ = _shardings(devices)
    processes = jax.process_count()
    count = len(devices) // processes
    cut = jax.tree.map(
        lambda *a: np.stack(a, axis=1), *(to_devices(b, count) for b in batches)
    )
    if processes == 1:
        return jax.device_put(cut, spread)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(spread, a), cut
    )


def replicate(state: TrainState, devices: Sequence[jax.Device]) -> TrainState:
    """A state that every process has in full, as an array of all of them.

    With one process pmap does it, and nothing is to be done.
    """
    if jax.process_count() == 1:
        return state
    _, whole = _shardings(devices)

    def spread(a: Any) -> jax.Array:
        host = np.asarray(a)
        return jax.make_array_from_callback(host.shape, whole, lambda at: host[at])

    return jax.tree.map(spread, state)


def on_every_device(
    array: np.ndarray, devices: Sequence[jax.Device]
) -> Shaped[jax.Array, "..."]:
    """An array that is whole in the memory of each device, of all processes."""
    _, whole = _shardings(devices)
    return jax.make_array_from_callback(array.shape, whole, lambda at: array[at])


def gather_rows(devices: Sequence[jax.Device]) -> Callable[..., jax.Array]:
    """Compiles (array of `on_every_device`, positions [devices, …]) to those rows.

    A program of its own: inside of a step, XLA would fuse it with what follows, whose
    last digits would change.
    """
    return jax.pmap(
        lambda array, positions: array[positions],
        axis_name=AXIS,
        in_axes=(None, 0),
        devices=list(devices),
    )


def _shardings(
    devices: Sequence[jax.Device],
) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """Arrays cut along their first axis among devices, and arrays whole on each."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    return cut, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


@functools.cache
def _largest() -> tuple[jax.sharding.NamedSharding, Callable[[jax.Array], jax.Array]]:
    spread, whole = _shardings(jax.devices())
    return spread, jax.jit(jnp.max, out_shardings=whole)


def largest(mine: int) -> jax.Array:
    """The largest of the numbers that all processes give; does not wait for them."""
    spread, over_all = _largest()
    each = np.full(jax.local_device_count(), mine, np.int32)
    return over_all(jax.make_array_from_process_local_data(spread, each))


def train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    prepare: Callable[[Batch], Batch],
    key: jax.Array,
    devices: Sequence[jax.Device],
) -> Step:
    """Compiles one optimizer step over `devices`.

    Args:
      method: its loss receives the rows of all devices through all_gather.
      optimizer: of the parameters.
      prepare: uint8 batch to normalized batch, on the device: augmentation.
      key: of the run; step t uses fold_in(key, t).
      devices: of `choose_devices`.

    Returns:
      (state, batch [devices, B / devices, …], schedule, frozen) to (state, metrics).
      The state passed in is donated. Metrics are scalars: the loss's and `grad_norm`.
    """
    return _mapped(_one_step(method, optimizer, prepare, key), devices)


def train_steps(
    method: Method,
    optimizer: optax.GradientTransformation,
    prepare: Callable[[Batch], Batch],
    key: jax.Array,
    devices: Sequence[jax.Device],
) -> Step:
    """Compiles several optimizer steps in one call; arguments as of `train_step`.

    Returns:
      (state, batch [devices, n, b, …], schedule [n], frozen) to (state, metrics [n]):
      n steps, one after the other. The state passed in is donated.
    """
    step = _one_step(method, optimizer, prepare, key)

    def steps(
        state: TrainState, batches: Batch, schedules: Schedule, frozen: Params
    ) -> tuple[TrainState, dict[str, Any]]:
        def body(
            state: TrainState, inputs: tuple[Batch, Schedule]
        ) -> tuple[TrainState, dict[str, Any]]:
            batch, schedule = inputs
            _, shapes = jax.eval_shape(step, state, batch, schedule, frozen)
            # Always true, which XLA cannot know: a branch is a computation of its own,
            # compiled like the single step, and not fused with the loop around it,
            # which would change the last digits.
            return lax.cond(
                schedule.progress >= 0,
                lambda: step(state, batch, schedule, frozen),
                lambda: (
                    state,
                    jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
                ),
            )

        return lax.scan(body, state, (batches, schedules))

    return _mapped(steps, devices)


def _one_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    prepare: Callable[[Batch], Batch],
    key: jax.Array,
) -> Step:
    """One step of `train_step` on one device of several."""

    def step(
        state: TrainState, batch: Batch, schedule: Schedule, frozen: Params
    ) -> tuple[TrainState, dict[str, Any]]:
        return update(
            method,
            optimizer,
            state,
            standardize(prepare(batch), frozen),
            schedule,
            frozen,
            jax.random.fold_in(key, state.step),
            gather=functools.partial(lax.all_gather, axis_name=AXIS, tiled=True),
            mean=functools.partial(lax.pmean, axis_name=AXIS),
        )

    return step


def _mapped(step: Step, devices: Sequence[jax.Device]) -> Step:
    """A step over devices, compiled ahead of its first call."""
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=list(devices),
    )
    return Ahead(mapped)


def predict_step(
    method: Method,
    prepare: Callable[[jax.Array], jax.Array],
    devices: Sequence[jax.Device],
) -> Callable[[Variables, Batch], Float[Array, "B K"]]:
    """Compiles (variables, batch [devices, b, …]) to logits of the K grades.

    Every process gets the rows of all processes, in order.
    """

    def step(variables: Variables, batch: Batch) -> jax.Array:
        prepared = batch
        if batch.image is not None:  # a method of other inputs has none
            prepared = dataclasses.replace(batch, image=prepare(batch.image))
        prepared = standardize(prepared, variables.frozen)
        logits = method.apply(variables, prepared).logits
        return lax.all_gather(logits, AXIS, tiled=True)

    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(devices),
    )
