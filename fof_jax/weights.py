"""Weights on disk by themselves: written by `import`, read by `export`.

A folder of imported weights holds `weights/` (Orbax: params, and state where there is
some), `about.json` (what it is, and of which file) and the manifest that checkpoints
have too.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fof_jax import checkpoint
from fof_jax.shapes import Variables

ABOUT = "about.json"
_WEIGHTS = "weights"
_STEP_ITEM = "default"  # where an Orbax manager puts the one item of a step


def write(folder: Path, variables: Variables, about: dict[str, Any]) -> None:
    """Writes a folder of weights, whole or not at all.

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
        checkpoint.seal(whole)
        whole.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read(folder: Path) -> Variables:
    """The weights of an imported folder, of a step of a run, or of a fold's newest.

    Args:
      folder: what `write` made, `fold_K/checkpoints/STEP`, `fold_K/checkpoints` or
        `fold_K`.

    Returns:
      NumPy arrays; `state` is {} where the method has none.

    Raises:
      ValueError: it is none of these, or damaged.
    """
    place, item = _place(folder)
    fault = checkpoint.verify(place)
    if fault is not None:
        raise ValueError(f"checkpoint: {place}: {fault.partition(';')[0]}.")
    with ocp.PyTreeCheckpointer() as reader:
        path = (place / item).resolve()
        kinds = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(path).item_metadata.tree,
        )
        tree = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return Variables(params=tree["params"], state=tree.get("state", {}))


def about(folder: Path) -> dict[str, Any]:
    """What `write` was told of a folder; {} for a fold or a step of a run."""
    path = folder / ABOUT
    return json.loads(path.read_text()) if path.exists() else {}


def start_from(
    fresh: Variables, given: Variables, *, say: Callable[[str], None], hint: str = ""
) -> Variables:
    """Fresh variables with the given weights in their place.

    Whole parts (encoder, classifier, …) may be missing from what is given: they stay
    as drawn. A part that is there has to fit to the last number. What was loaded and
    what is new is said by name.

    Args:
      fresh: of the method that is to be trained.
      given: of `read`.
      say: prints a line.
      hint: ends the message of a shape that does not fit.

    Raises:
      ValueError: a tensor has another shape, is missing from its part, or is not of
        this model; the first of each by name, with both shapes.
    """
    begun: dict[str, dict[str, Any]] = {}
    for name in ("params", "state"):
        wanted, found = _parts(getattr(fresh, name)), _parts(getattr(given, name))
        extra = sorted(set(found) - set(wanted))
        if extra:
            raise ValueError(
                f"init.checkpoint: it holds {', '.join(extra)}, which this method does "
                f"not have ({', '.join(wanted) or 'nothing'}). Was it made by another "
                "method?"
            )
        fitted = {
            part: _fitted(part, tree, found[part], hint) if part in found else tree
            for part, tree in wanted.items()
        }
        for part in sorted(found):
            tensors = ", ".join(filter(None, _shapes(found[part])))
            say(f"init.checkpoint: {part} loaded" + (f": {tensors}" if tensors else ""))
        drawn = sorted(set(wanted) - set(found))
        if drawn:
            say(f"init.checkpoint: {', '.join(drawn)} new, drawn at random")
        begun[name] = _joined(fitted)
    return Variables(params=begun["params"], state=begun["state"])


def _parts(tree: dict[str, Any]) -> dict[str, Any]:
    """Parts by name; those of a part that holds the encoder among others, apart."""
    out: dict[str, Any] = {}
    for name, part in tree.items():
        if isinstance(part, dict) and "encoder" in part:
            out |= {f"{name}.{inner}": sub for inner, sub in part.items()}
        else:
            out[name] = part
    return out


def _joined(parts: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, part in parts.items():
        outer, dot, inner = name.partition(".")
        if dot:
            out.setdefault(outer, {})[inner] = part
        else:
            out[name] = part
    return out


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted name; "" where the tree is one array."""
    return {
        ".".join(str(key.key) for key in path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _fitted(part: str, wanted: Any, found: Any, hint: str) -> Any:
    shapes, there = _shapes(wanted), _shapes(found)
    for name in sorted(set(shapes) | set(there)):
        if shapes.get(name) != there.get(name):
            tensor = f"{part}.{name}".rstrip(".")
            raise ValueError(
                f"init.checkpoint: {tensor} has shape {there.get(name, 'none')} "
                f"there and {shapes.get(name, 'none')} in the model that the config "
                f"describes. {hint}Compare encoder, image_size, classes and biomarkers."
            )
    return jax.tree.map(lambda _, leaf: jnp.asarray(leaf), wanted, found)


def _place(folder: Path) -> tuple[Path, str]:
    """The folder that has the manifest, and the name of what is in it."""
    if (folder / ABOUT).exists():
        return folder, _WEIGHTS
    if (folder / _STEP_ITEM).is_dir():
        return folder, _STEP_ITEM
    for parent in (folder / "checkpoints", folder):
        steps = [p for p in parent.glob("*") if p.name.isdigit()]
        steps.sort(key=lambda p: int(p.name), reverse=True)
        whole = [step for step in steps if checkpoint.verify(step) is None]
        if steps:
            return (whole or steps)[0], _STEP_ITEM
    raise ValueError(
        f"checkpoint: {folder} holds no weights. Expected a fold of a run (fold_0), a "
        "step below its checkpoints, or a folder that `import` made."
    )
