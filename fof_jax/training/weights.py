"""Standalone weights without a run: written by `import`, read by `export`.

A folder of imported weights holds `weights/` (Orbax: params, and state where there is
some), `about.json` (what it is, and of which file) and the manifest that checkpoints
have too.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fof_jax.training import checkpoint
from fof_jax.training.run_fields import BEST_FILE
from fof_jax.types import Variables

ABOUT = "about.json"
_WEIGHTS = "weights"
_STEP_ITEM = "default"  # where an Orbax manager puts the one item of a step


def write(folder: Path, variables: Variables, about: dict[str, Any]) -> None:
    """Writes a folder of weights atomically.

    Args:
      folder: is made; may not exist.
      variables: arrays, of any method.
      about: JSON values that say what they are.

    Raises:
      ValueError: the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already. Pass another --out.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        whole = staging / folder.name  # mkdtemp's own mode admits the owner only
        whole.mkdir()
        tree = {"params": variables.params}
        # Orbax refuses an empty tree.
        tree |= {"state": variables.state} if jax.tree.leaves(variables.state) else {}
        with ocp.PyTreeCheckpointer() as writer:
            writer.save((whole / _WEIGHTS).resolve(), jax.tree.map(np.asarray, tree))
        (whole / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        checkpoint.write_manifest(whole)
        whole.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read(folder: Path) -> Variables:
    """The weights of an imported folder, of a step of a run, or of a fold.

    Those of a fold are of its best step on the validation rows, if the run has some and
    the fold is finished, else of its newest.

    Args:
      folder: what `write` made, `fold_K/checkpoints/STEP`, `fold_K/checkpoints` or
        `fold_K`.

    Returns:
      NumPy arrays; `state` is {} where the method has none.

    Raises:
      ValueError: it is none of these, or damaged.
    """
    place, item = _place(folder)
    fault = checkpoint.verify_manifest(place)
    if fault is not None:
        raise ValueError(f"checkpoint: {place}: {fault.partition(';')[0]}.")
    with checkpoint.quiet(), ocp.PyTreeCheckpointer() as reader:
        path = (place / item).resolve()
        kinds = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(path).item_metadata.tree,
        )
        tree = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return Variables(params=tree["params"], state=tree.get("state", {}))


def digest(variables: Variables) -> str:
    """SHA-256 of names, types, shapes and values of the parameters and the state."""
    hasher = hashlib.sha256()
    tree = {"params": variables.params, "state": variables.state}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        hasher.update(
            f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode()
        )
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def about(folder: Path) -> dict[str, Any]:
    """The metadata given to `write`; {} for a fold or a step of a run."""
    path = folder / ABOUT
    return json.loads(path.read_text()) if path.exists() else {}


def _place(folder: Path) -> tuple[Path, str]:
    """The folder with the manifest, and the name of the item in it."""
    if (folder / ABOUT).exists():
        return folder, _WEIGHTS
    if (folder / _STEP_ITEM).is_dir():
        return folder, _STEP_ITEM
    folder = folder.absolute()  # "." has no name
    for parent in (folder / "checkpoints", folder):
        best = parent.parent / BEST_FILE
        if parent.is_dir() and parent.name == "checkpoints" and best.exists():
            return parent / str(json.loads(best.read_text("utf-8"))["step"]), _STEP_ITEM
        steps = [p for p in parent.glob("*") if p.name.isdigit()]
        steps.sort(key=lambda p: int(p.name), reverse=True)
        whole = [step for step in steps if checkpoint.verify_manifest(step) is None]
        if steps:
            return (whole or steps)[0], _STEP_ITEM
    raise ValueError(
        f"checkpoint: {folder} holds no weights. Expected a fold of a run (fold_0), a "
        "step below its checkpoints, or a folder that `import` made."
    )
