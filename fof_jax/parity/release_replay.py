"""Replays a recording of the authors' code, of whichever kind it is."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.parity.comparison import Row, load
from fof_jax.parity.release_processes import is_case_of, replay_ddp
from fof_jax.parity.release_steps import replay_case
from fof_jax.parity.release_units import replay_units

BESIDE = "release_a.npz"  # the case that release_ddp was recorded from


def kind(z: Mapping[str, np.ndarray]) -> str | None:
    """case (optimizer steps), units (functions), ddp (two processes), or None."""
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
      path: an `.npz` of a case, of single functions (units), or of two processes (ddp).
      others: for ddp: files among which the case may be that it was recorded from, if
        `release_a.npz` beside it is not that case. It has the sizes and directions.
      scores: for units: (y, prob, average=…) -> figures by name; None leaves metrics
        out.

    Returns:
      One row a quantity.

    Raises:
      ValueError: the file is of none of these kinds, or the case of a ddp is missing.
      FileNotFoundError: it does not exist.
    """
    z = load(path)
    found = kind(z)
    if found == "case":
        return replay_case(z)
    if found == "units":
        return replay_units(z, scores=scores)
    if found == "ddp":
        return replay_ddp(z, _case_of(z, path, others))
    raise ValueError(
        f"{path}: not a recording of the authors' code. Expected the arrays of a case "
        "(cfg/hidden …), of units (supcon/0/…) or of ddp (loss_total/world1/…)."
    )


def _case_of(
    z: Mapping[str, np.ndarray], path: Path, others: Iterable[Path]
) -> dict[str, np.ndarray]:
    for one in (path.with_name(BESIDE), *others):
        if one != path and one.is_file() and is_case_of(z, case := load(one)):
            return case
    raise ValueError(
        f"{path}: the case that it was recorded from is not there; it holds the sizes. "
        f"Put {BESIDE} beside it, or pass that file with --golden as well."
    )
