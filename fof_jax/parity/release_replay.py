"""Replays recordings of the authors' code."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.parity.comparison import Row, load
from fof_jax.parity.release_processes import is_case_of, replay_ddp
from fof_jax.parity.release_steps import replay_case
from fof_jax.parity.release_units import replay_units

DDP_CASE = "release_a.npz"  # the case that release_ddp was recorded from


def kind(z: Mapping[str, np.ndarray]) -> str | None:
    """Kind of recording: case (steps), units (functions), ddp (processes) or None."""
    if "cfg/hidden" in z and "batch0/view1" in z:
        return "case"
    if any(name.startswith("supcon/") for name in z):
        return "units"
    return "ddp" if "loss_total/world1/full" in z else None


def replay(
    path: Path,
    *,
    others: Iterable[Path] = (),
    scores: Callable[..., dict[str, Any]] | None = None,
) -> list[Row]:
    """Replays a recording of any kind.

    Args:
      path: an `.npz` of optimizer steps (case), single functions (units) or two
        processes (ddp).
      others: for ddp: other files to search for the case that it was recorded from,
        which has sizes and principal directions; `release_a.npz` in the same folder
        is searched first.
      scores: for units: (y, prob, average=…) -> metrics by name; None skips the
        metrics.

    Returns:
      One row per quantity.

    Raises:
      ValueError: not such a recording, or the case of a ddp recording is missing.
      FileNotFoundError: the file does not exist.
    """
    z = load(path)
    recorded = kind(z)
    if recorded == "case":
        return replay_case(z)
    if recorded == "units":
        return replay_units(z, scores=scores)
    if recorded == "ddp":
        return replay_ddp(z, _case_of(z, path, others))
    raise ValueError(
        f"{path}: not a recording of the authors' code. Expected the arrays of a case "
        "(cfg/hidden …), of units (supcon/0/…) or of ddp (loss_total/world1/…)."
    )


def _case_of(
    z: Mapping[str, np.ndarray], path: Path, others: Iterable[Path]
) -> dict[str, np.ndarray]:
    for other in (path.with_name(DDP_CASE), *others):
        if other != path and other.is_file() and is_case_of(z, case := load(other)):
            return case
    raise ValueError(
        f"{path}: the case that it was recorded from, with its sizes, was not found. "
        f"Put {DDP_CASE} beside it, or pass that file with --golden as well."
    )
