"""The table of tolerances of the distillation recordings, and rows that use it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row

# Bounds for a float32 program against a float32 recording, as the description of the
# recordings proposes. Relative to the largest recorded magnitude unless said otherwise.
TOLERANCES = {
    "loss": 1e-5,  # of max(|loss|, 0.01)
    "loss, per sample": 3e-5,
    "loss, pkt": 5e-4,  # of max(|loss|, 1e-4): it is a difference of near logarithms
    "loss, duplicates": 1e-4,
    "loss, zero": 1e-6,  # absolute, where the exact value is 0
    "gradient": 5e-6,
    "gradient, pkt": 3e-5,
    "gradient, duplicates": 1e-4,
    "gradient, zero": 1e-6,  # absolute
    "bank loss": 5e-6,
    "bank gradient": 5e-6,
    "Z": 5e-6,
    "bank": 5e-6,
    "ranking": 5e-6,  # absolute, of relation differences in the recorded order
    "equal": 0.0,  # graphs and masks: entries that differ
    "rule": 2e-6,
    "step output": 1e-5,
    "step loss": 2e-5,  # of max(|loss|, 0.01)
    "step weight": 1e-5,
    "step gradient": 5e-5,  # of its own largest or 1e-3 of the largest of all
    "step bank": 1e-5,
    "rate": 1e-9,
    "parameter, student": 2e-6,  # absolute
    "parameter, teacher": 5e-5,  # absolute
    "statistics": 1e-5,
    # Running means behind a bias that Adam moves by rounding.
    "statistics, mean": 2e-4,
}
LOSS_FLOORS = {"loss, pkt": 1e-4}
LOSS_FLOOR = 1e-2
GRADIENT_FLOOR = 1e-3
# A bias before a BatchNorm: its exact gradient is 0 and Adam moves it by rounding.
VANISHING = ("fc_new1.0.bias", "encoder1.0.bias", "encoder2.0.bias")


def row(quantity: str, ours: Any, theirs: Any, kind: str, **options: Any) -> Row:
    """A row with the tolerance of a kind."""
    return comparison.row(
        quantity, ours, theirs, TOLERANCES[kind], kind=kind, **options
    )


def loss_row(quantity: str, ours: Any, theirs: Any, kind: str, where: str = "") -> Row:
    """A row of a loss, relative to the recorded value or its kind's floor."""
    theirs = np.asarray(theirs, np.float64).reshape(np.shape(ours))
    floor = LOSS_FLOORS.get(kind, LOSS_FLOOR)
    scale = max(float(np.abs(theirs).max(initial=0.0)), floor)
    return row(quantity, ours, theirs, kind, scale=scale, where=where)


def gradient_rows(
    ours: Mapping[str, Any], theirs: Mapping[str, np.ndarray], kind: str, where: str
) -> list[Row]:
    """Rows of all tensors that have a gradient, by PyTorch name."""
    largest = max((float(np.abs(v).max()) for v in theirs.values()), default=0.0)
    return [
        row(
            "gradients",
            ours[name],
            value,
            kind,
            scale=max(float(np.abs(value).max()), GRADIENT_FLOOR * largest),
            where=f"{name} of {where}",
        )
        for name, value in theirs.items()
        if name in ours and not name.endswith(VANISHING)
    ]


def grouped(rows: list[Row], prefix: str = "") -> list[Row]:
    """The worst row of each quantity, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for one in rows:
        groups.setdefault(one.quantity, []).append(one)
    return [
        comparison.worst(group, f"{prefix}{name}") for name, group in groups.items()
    ]
