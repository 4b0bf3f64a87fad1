"""Multi-host training: one process per host, all taking the same steps.

`jax.distributed` connects them. What is here is what training asks besides: who
writes, what all have to know alike, and how one that fails takes the others along.
Everything works with one process too, and costs nothing there.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fof_jax.training import parallel
from fof_jax.training.preemption import Action

DISCOVER = "auto"  # SLURM, Open MPI, Cloud TPU: jax.distributed finds out by itself
TIMEOUT = 60  # seconds without a sign of life
# How the runtime begins what it has to say of a failed collective.
_STATUS = re.compile(
    "(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED"
    "|FAILED_PRECONDITION): "
)
_GOODBYE = 10  # seconds that a process which ends waits for the others
_LAST = 2  # seconds that the first process stays behind those that fail with it


class LostProcessError(ConnectionError):
    """Another process of the run was lost; this one cannot continue alone."""


def connect(
    coordinator: str | None,
    process_id: int | None,
    num_processes: int | None,
    *,
    timeout: int = TIMEOUT,
) -> None:
    """Connects the processes of one run; call it before any device is used.

    Args:
      coordinator: HOST:PORT of process 0, the same for all; `auto` where SLURM, Open
        MPI or a TPU pod tell all three; None for a run of one process.
      process_id: 0 … num_processes - 1.
      num_processes: their number.
      timeout: seconds without a sign of life after which a process counts as lost.

    Raises:
      ValueError: values that are missing or do not fit, or the others cannot be found.
    """
    explicit = process_id is not None or num_processes is not None
    if coordinator is None:
        if explicit:
            raise ValueError(
                "--process_id and --num_processes are nothing without --coordinator. "
                "Pass --coordinator=HOST:PORT of process 0, or --coordinator=auto."
            )
        return
    if timeout < 1:
        raise ValueError(
            f"--heartbeat_timeout: got {timeout}, expected 1 or more seconds."
        )
    addresses: dict[str, Any] = {}
    if coordinator != DISCOVER:
        addresses = _by_hand(coordinator, process_id, num_processes)
    elif explicit:
        raise ValueError(
            "--coordinator=auto finds out --process_id and --num_processes by itself. "
            "Leave them out, or pass --coordinator=HOST:PORT."
        )
    # Only for CPUs; GPUs and TPUs bring their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM away from us.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **addresses,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=_GOODBYE,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"--coordinator={coordinator}: the processes did not find each other "
            f"({str(error).splitlines()[0]}). Start all of them with the same "
            "HOST:PORT, which the others must be able to reach."
        ) from error


def _by_hand(
    coordinator: str, process_id: int | None, num_processes: int | None
) -> dict[str, Any]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"--coordinator: got {coordinator!r}, expected HOST:PORT of process 0, "
            "e.g. 10.0.0.1:1234, or auto."
        )
    if process_id is None or num_processes is None:
        raise ValueError(
            f"--coordinator={coordinator} requires --process_id and --num_processes "
            "too."
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id: got {process_id} of --num_processes={num_processes}; "
            "expected 0 … num_processes - 1."
        )
    return {
        "coordinator_address": coordinator,
        "process_id": process_id,
        "num_processes": num_processes,
    }


@contextlib.contextmanager
def translate_lost_process() -> Iterator[None]:
    """Translates the error of a collective with a lost process.

    Raises:
      LostProcessError: says what to do.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # JAX raises either, by where the failing program was when it was noticed.
        if not is_lost_process(error):
            raise
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()} has lost another "
            f"({str(error).splitlines()[0][:200]}). Start all of them again with the "
            "same commands: the run resumes from its last checkpoint."
        ) from error


def is_lost_process(error: Exception) -> bool:
    """Whether a collective failed because another process was lost."""
    return jax.process_count() > 1 and bool(_STATUS.match(str(error)))


def exit_now(code: int) -> None:
    """Exits immediately after a failure if the run has other processes.

    Python would stay to say goodbye to processes that wait for a step of ours.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        if (
            is_main_process()
        ):  # the others' connection ends with us: let them fail first
            time.sleep(_LAST)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_main_process() -> bool:
    """True in the one process that writes files and prints."""
    return jax.process_index() == 0


def process_index_and_count() -> tuple[int, int]:
    """(index, count) of this process."""
    return jax.process_index(), jax.process_count()


def barrier(name: str) -> None:
    """Returns when every process is here."""
    multihost_utils.sync_global_devices(name)


def broadcast(number: int) -> int:
    """The number of the process that writes, in all of them."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def gather(rows: np.ndarray) -> np.ndarray:
    """The rows [n, …] of every process, in order, in all of them [count * n, …]."""
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


class StopConsensus:
    """Combines stop and save requests across processes at a common step.

    With several processes each learns the outcome at its next call: the device has
    reduced the values by then, so that no process waits.
    """

    def __init__(self) -> None:
        """Nothing is requested."""
        self._sent: jax.Array | None = None

    def __call__(self, mine: Action) -> Action:
        """Contributes this process's request.

        Returns:
          The largest request of all processes: of this call with one process, else of
          the call before (NONE in the first).
        """
        if jax.process_count() == 1:
            return Action(mine)
        before, self._sent = self._sent, parallel.largest(int(mine))
        return Action.NONE if before is None else Action(int(before))


def all_max(number: int) -> int:
    """The largest number of all processes; waits for them."""
    return int(gather(np.array([number], np.int32)).max())


def gather_texts(text: str) -> list[str]:
    """The text of every process, in all of them."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = gather(np.array([data.size], np.int32))
    padded = np.zeros((1, sizes.max() + 1), np.uint8)
    padded[0, : data.size] = data
    rows = gather(padded)
    return [
        row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)
    ]


@contextlib.contextmanager
def raise_on_all() -> Iterator[None]:
    """A block that all processes have to get through: one refusal is everybody's.

    Raises:
      ValueError: another process refused, and why.
    """
    refusal: Exception | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        refusal = error
    refusals = gather_texts(
        "" if refusal is None else str(refusal) or type(refusal).__name__
    )
    if refusal is not None:
        raise refusal
    for process, text in enumerate(refusals):
        if text:
            raise ValueError(f"process {process} refused: {text}")


def require_equal(fields: Mapping[str, Any]) -> None:
    """Refuses to start where the processes were given different values.

    Args:
      fields: JSON values by name; they have to be the same everywhere.

    Raises:
      ValueError: which fields differ, and in which processes.
    """
    per_process = [json.loads(text) for text in gather_texts(json.dumps(dict(fields)))]
    first = per_process[0]
    differing = [
        f"  {name}: {first.get(name)!r} in process 0, {other.get(name)!r} in {k}"
        for k, other in enumerate(per_process)
        for name in sorted(set(first) | set(other))
        if first.get(name) != other.get(name)
    ]
    if differing:
        raise ValueError(
            "The processes were started with different values:\n"
            + "\n".join(differing)
            + "\nGive all of them the same configuration and the same store."
        )
