"""Replays recordings of both stages of CLAT."""

from collections.abc import Mapping

import numpy as np

from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import clat_stage1, clat_stage2


def recognizes(z: Mapping[str, np.ndarray]) -> bool:
    """Whether a recording is of either stage."""
    return clat_stage1.recognizes(z) or clat_stage2.recognizes(z)


def replay(z: Mapping[str, np.ndarray]) -> list[Row]:
    """Compares every recorded quantity with ours.

    Args:
      z: a recording, by name; every size is read from it.

    Returns:
      One row per quantity.

    Raises:
      ValueError: it is of neither stage.
    """
    for stage in (clat_stage1, clat_stage2):
        if stage.recognizes(z):
            return stage.replay(z)
    raise ValueError(
        "parity: the recording is of neither stage of CLAT. Expected cfg/omic_k "
        "(stage 1) or cfg/nce_k with init/teacher.* (stage 2)."
    )
