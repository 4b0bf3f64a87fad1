"""Checkpoints of one fold: Orbax, with a manifest that says when one is whole.

Orbax restores a flipped bit in silence. The SHA-256 of every file of a step is
therefore written last and verified first; a step without a manifest, or one that
does not fit it, is not used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from fof_jax import hosts
from fof_jax.parallel import TrainState

MANIFEST = "manifest.json"
_TO_DELETE = "to_delete"  # Orbax moves old steps here first: a kill leaves no halves
_DAMAGED = "damaged"
_NONE = -1  # no step


class Checkpoints:
    """The newest checkpoints of a fold, in one folder.

    Of several processes all call the same methods at the same time, on one folder
    that all of them see; Orbax has the first of them write.

    Attributes:
      directory: the folder; made if absent.
    """

    def __init__(
        self, directory: Path, *, keep: int = 2, say: Callable[[str], None] = print
    ):
        """Opens the folder.

        Args:
          directory: absolute or relative path.
          keep: how many of the newest steps stay.
          say: where a damaged checkpoint is reported.
        """
        self.directory = directory.resolve()
        self._say = say
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                todelete_subdir=_TO_DELETE,
                # A step of 10 s beside a save of 0.4 s: simple beats concurrent.
                enable_async_checkpointing=False,
            ),
        )

    def save(self, state: TrainState) -> None:
        """Writes a step; when this returns, it is whole on disk."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        host = jax.device_get(state)
        self._manager.save(step, args=ocp.args.StandardSave(_plain(host)))
        if hosts.writes():
            seal(self.directory / str(step))
            shutil.rmtree(self.directory / _TO_DELETE, ignore_errors=True)
        hosts.wait("sealed")

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest whole checkpoint, or None if there is none.

        Args:
          like: a state of the same structure and shapes.

        Raises:
          ValueError: steps exist and every one of them is damaged, or their tree is
            not that of `like`.
        """
        with hosts.all_or_none():
            whole = self._newest_whole() if hosts.writes() else _NONE
        step = hosts.first_says(whole)
        self._manager.reload()  # what was put aside is gone for every process
        return None if step == _NONE else self._read(step, like)

    def close(self) -> None:
        """Releases the manager."""
        self._manager.close()

    def _newest_whole(self) -> int:
        """Verifies from the newest on, and puts aside what is damaged."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            fault = verify(self.directory / str(step))
            if fault is None:
                return step
            self._say(f"checkpoint {step} of {self.directory.parent.name}: {fault}")
            self._put_aside(step)
        if steps:
            raise ValueError(
                f"checkpoints: all {len(steps)} in {self.directory} are damaged; they "
                f"were moved to {_DAMAGED}/. Delete {self.directory.parent} to train "
                "this fold again."
            )
        return _NONE

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


def seal(folder: Path) -> None:
    """Writes the manifest of a folder that is whole; the last thing to be done."""
    _write_json(folder / MANIFEST, _digests(folder))


def verify(folder: Path) -> str | None:
    """What is wrong with a step's folder, or None."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return "it was not finished; the one before it is used"
    try:
        expected = json.loads(manifest.read_text())
    except ValueError:
        return f"{MANIFEST} cannot be read; the one before it is used"
    found = _digests(folder)
    if found == expected:
        return None
    names = sorted(set(found.items()) ^ set(expected.items()))
    return f"file {names[0][0]} is damaged or missing; the one before it is used"


def _plain(state: TrainState) -> dict:
    """The state as a tree of named leaves; Optax's records become a list."""
    tree = {
        "step": state.step,
        "params": state.params,
        "opt_state": jax.tree.leaves(state.opt_state),
    }
    # Orbax refuses an empty tree.
    return tree | ({"state": state.state} if jax.tree.leaves(state.state) else {})


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    os.replace(temporary, path)
