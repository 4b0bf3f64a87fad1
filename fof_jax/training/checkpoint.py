"""Checkpoints of one fold by Orbax, each with a manifest that marks completion.

The manifest of a step is written last and verified first; a step without one, or one
that does not fit it, is not used.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from fof_jax.files import has_manifest, verify_manifest, write_manifest
from fof_jax.training import multihost
from fof_jax.training.state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a step that is being written
_TO_DELETE = "to_delete"  # Orbax moves old steps here first: a kill leaves no halves
_DAMAGED = "damaged"
_NONE = -1  # no step


class Checkpoints:
    """Directory of the newest checkpoints of a fold.

    Of several processes all call the same methods at the same time, on one folder
    that all of them see; Orbax has the first of them write.

    Attributes:
      directory: the folder; made if absent.
      best: a step that stays, too; None for none.
    """

    best: int | None = None

    def __init__(
        self, directory: Path, *, keep: int = 2, log: Callable[[str], None] = print
    ):
        """Opens the folder.

        Args:
          directory: absolute or relative path.
          keep: how many of the newest steps stay.
          log: where a damaged checkpoint is reported.
        """
        self.directory = directory.resolve()
        self._log = log
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LatestAndBest(keep, self),
                todelete_subdir=_TO_DELETE,
                # A step of 10 s beside a save of 0.4 s: simple beats concurrent.
                enable_async_checkpointing=False,
            ),
        )

    def save(self, state: TrainState) -> None:
        """Writes a step; it is complete on disk when this returns.

        Raises:
          OSError: it cannot be written: the disk is full, say.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        host = jax.device_get(state)
        try:
            self._room_for(host)
            with quiet():
                self._manager.save(step, args=ocp.args.StandardSave(_plain(host)))
            if multihost.is_main_process():
                write_manifest(self.directory / str(step))
        except (ValueError, OSError) as error:
            if multihost.is_lost_process(error):
                raise
            why = (
                "no space left"
                if "RESOURCE_EXHAUSTED" in str(error)
                else (str(error).splitlines()[0][:200])
            )
            raise OSError(
                f"checkpoint {step} cannot be written to {self.directory} ({why}). "
                "Free space; the same command then resumes from the one before."
            ) from error
        if multihost.is_main_process():
            shutil.rmtree(self.directory / _TO_DELETE, ignore_errors=True)
        multihost.barrier("sealed")

    def restore(self, like: TrainState) -> TrainState | None:
        """Restores the newest valid checkpoint, or returns None if there is none.

        Args:
          like: a state of the same structure and shapes.

        Raises:
          ValueError: steps exist and every one of them is damaged, or their tree is
            not that of `like`.
        """
        with multihost.raise_on_all():
            whole = self._newest_whole() if multihost.is_main_process() else _NONE
        step = multihost.broadcast(whole)
        self._manager.reload()  # what was put aside is gone for every process
        return None if step == _NONE else self._read(step, like)

    def restore_step(self, step: int, like: TrainState) -> TrainState:
        """Restores one step, the best one.

        Raises:
          ValueError: it is gone or damaged.
        """
        with multihost.raise_on_all():
            fault = verify_manifest(self.directory / str(step))
            if fault is not None:
                raise ValueError(
                    f"checkpoint {step} in {self.directory}, the best on the "
                    f"validation rows: {fault}. Bring back a copy of it, or delete "
                    f"{self.directory.parent} to train this fold again."
                )
        return self._read(step, like)

    def _room_for(self, host: TrainState) -> None:
        """Checks the free space first: a failed write leaves Orbax threads running."""
        needed = sum(np.asarray(a).nbytes for a in jax.tree.leaves(host))
        free = shutil.disk_usage(self.directory).free
        if multihost.is_main_process() and free < needed:
            raise OSError(f"no space left: {needed} bytes wanted, {free} free")

    def close(self) -> None:
        """Releases the manager."""
        self._manager.close()

    def _newest_whole(self) -> int:
        """Finds the newest valid checkpoint, and quarantines invalid ones.

        Unfinished is what a kill leaves in the middle of a save: nothing is lost, and
        where it is the first save training begins anew. Damaged is another matter: it
        is never passed over in silence, nor for a beginning from nothing.
        """
        name, newest, damaged = self.directory.parent.name, _NONE, []
        faults: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            fault = verify_manifest(self.directory / str(step))
            if fault is None:
                newest = step
                break
            faults[step] = fault
            if has_manifest(self.directory / str(step)):
                damaged.append(f"  {step}: {fault}")
        if damaged and newest == _NONE:
            raise ValueError(
                f"checkpoints: no step in {self.directory} is whole:\n"
                + "\n".join(damaged)
                + f"\nBring back a copy of them, or delete {self.directory.parent} to "
                "train this fold again from its beginning."
            )
        for step, fault in faults.items():
            rest = "training begins anew" if newest == _NONE else (
                f"step {newest}, the one before it, is used"
            )  # fmt: skip
            self._log(f"checkpoint {step} of {name}: {fault}; {rest}")
            self._put_aside(step)
        for left in self.directory.glob(f"*{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        return newest

    def _read(self, step: int, like: TrainState) -> TrainState:
        target = _plain(jax.device_get(like))
        try:
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"checkpoint {step} in {self.directory} is of another model than the "
                f"config describes ({str(error).splitlines()[0]}). Use the workdir's "
                "own config, or another --workdir."
            ) from error
        return TrainState(
            step=tree["step"],
            params=tree["params"],
            state=tree.get("state", {}),
            opt_state=jax.tree.unflatten(
                jax.tree.structure(like.opt_state), tree["opt_state"]
            ),
        )

    def _put_aside(self, step: int) -> None:
        aside = self.directory / _DAMAGED
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        (self.directory / str(step)).rename(aside / str(step))


class _LatestAndBest:
    """Orbax's policy of which steps stay: the newest, and the best so far."""

    def __init__(self, keep: int, owner: Checkpoints):
        self._latest, self._owner = preservation_policy.LatestN(keep), owner

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: preservation_policy.PreservationContext,
    ) -> list[bool]:
        latest = self._latest.should_preserve(checkpoints, context=context)
        best = [one.step == self._owner.best for one in checkpoints]
        return [a or b for a, b in zip(latest, best, strict=True)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses what Orbax logs: warnings about metadata that checkpoints of this
    package do not have, and tracebacks of errors that are reported in one line.
    """
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _plain(state: TrainState) -> dict:
    """The state as a tree of named leaves; Optax's records become a list."""
    tree = {
        "step": state.step,
        "params": state.params,
        "opt_state": jax.tree.leaves(state.opt_state),
    }
    # Orbax refuses an empty tree.
    return tree | ({"state": state.state} if jax.tree.leaves(state.state) else {})


class SaveTimer:
    """Timer for periodic checkpoints."""

    def __init__(self, minutes: float):
        """Starts.

        Args:
          minutes: between two checkpoints; 0 for never.
        """
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Restarts the interval after a checkpoint."""
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed; resets after firing."""
        if not self._seconds or time.monotonic() - self._last < self._seconds:
            return False
        self.restart()
        return True
