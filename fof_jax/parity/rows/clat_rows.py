"""Rows that the replays of both stages of CLAT share: tolerances, losses, parameters.

The image encoder of the recordings is the flattened image, in the order C, H, W.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import clat_names as names
from fof_jax.parity.rows import named_tensors

Recording = Mapping[str, np.ndarray]

# Largest difference, relative to what the comment names. Proposed by the recordings'
# description for a float32 program.
TOLERANCES = {
    "array": 2e-5,  # of step 0: the array's maximum
    "array later": 3e-4,  # of later steps, and running variances after 2 and more
    "loss": 1e-5,  # of step 0: the recorded value, or 1e-3
    "loss later": 3e-4,  # of later steps
    "gradient": 1e-4,  # the tensor's maximum, or 1e-3 of the largest gradient of all
    "zero gradient": 1e-5,  # before a BatchNorm, absolute; exactly 0 but for rounding
    "parameter": 5e-5,  # absolute
    "parameter before BN": 4e-4,  # absolute; L2 decay moves them, and rounding noise
    "parameter near 0": 1.0,  # such a one that can cross 0: the summed rates
    "running mean": 4e-4,  # absolute, after 2 and more: it moves with such a bias
    "bank": 1e-5,  # absolute, after the first step
    "bank later": 1e-4,  # of later steps, whose embeddings are later arrays
    "mask": 0.0,  # entries that differ
    "rate": 1e-6,
}


def channels_last(image: np.ndarray) -> jax.Array:
    """[B, C, H, W] to [B, H, W, C]."""
    return jnp.asarray(image).transpose(0, 2, 3, 1)


def flatten(image: jax.Array) -> jax.Array:
    """The recordings' image encoder."""
    return image.transpose(0, 3, 1, 2).reshape(len(image), -1)


def adam(z: Recording) -> optax.GradientTransformation:
    """Adam with L2 decay inside the gradient, at the recording's rate."""
    return optax.chain(
        optax.add_decayed_weights(float(z["cfg/weight_decay"])),
        optax.adam(
            float(z["cfg/lr"]),
            b1=float(z["cfg/beta1"]),
            b2=float(z["cfg/beta2"]),
            eps=1e-8,
        ),
    )


def check_dropout(z: Recording) -> None:
    """Refuses recordings with dropout, whose masks are not recorded.

    Raises:
      ValueError: the rate is not 0.
    """
    if float(z["cfg/dropout"]) != 0:
        raise ValueError(
            f"parity: the recording has dropout {float(z['cfg/dropout'])}, expected 0. "
            "A replay needs the masks, which this format does not hold."
        )


def compare(name: str, ours: Any, theirs: Any, kind: str, **options: Any) -> Row:
    """A row with a kind of `TOLERANCES`; options as in `comparison.row`."""
    return comparison.row(name, ours, theirs, TOLERANCES[kind], kind=kind, **options)


def loss_row(name: str, ours: Any, theirs: Any, t: int) -> Row:
    """A loss, relative to its value or 1e-3."""
    kind = "loss later" if t else "loss"
    scale = max(abs(float(theirs)), 1e-3)
    return compare(name, ours, theirs, kind, scale=scale, where=f"step {t}")


def gradient_rows(
    z: Recording, prefix: str, ours: Mapping[str, np.ndarray]
) -> list[Row]:
    """The worst gradient, and the largest before a BatchNorm."""
    others, zero = names.split_before_batch_norm(ours)
    row = named_tensors.gradients(
        z,
        prefix,
        others,
        quantity="step 0 gradients",
        tolerance=TOLERANCES["gradient"],
    )
    largest = max(float(np.abs(value).max()) for value in zero.values())
    name = "step 0 gradients before BatchNorm"
    return [row, compare(name, largest, 0.0, "zero gradient", scale=1.0)]


def parameter_rows(
    z: Recording, prefix: str, ours: Mapping[str, np.ndarray], steps: int, what: str
) -> list[Row]:
    """The worst parameter, and the worst before a BatchNorm."""
    others, zero = names.split_before_batch_norm(ours)
    rates = steps * float(z["cfg/lr"])
    rows = [
        named_tensors.parameters(
            z,
            prefix,
            others,
            quantity=f"{what} after {steps}",
            tolerance=TOLERANCES["parameter"],
            summed_rates=rates,
        )
    ]
    apart = []
    for name, value in zero.items():
        # Where L2 decay can bring the bias to 0, rounding decides on its direction.
        theirs = z[prefix + name]
        near = np.abs(theirs) <= rates
        for where, kind, scale in (
            (~near, "parameter before BN", 1.0),
            (near, "parameter near 0", rates),
        ):
            a, b = np.where(where, value, theirs), theirs
            apart.append(compare(what, a, b, kind, scale=scale, where=name))
    if apart:
        quantity = f"{what} before BatchNorm after {steps}"
        rows.append(comparison.worst(apart, quantity))
    return rows


def statistics_row(
    z: Recording, prefix: str, ours: Mapping[str, np.ndarray], steps: int, what: str
) -> Row:
    """The worst BatchNorm statistic."""
    rows = []
    for name, value in ours.items():
        kind, scale = "array later" if steps > 1 else "array", None
        if steps > 1 and name.endswith("running_mean"):
            kind, scale = "running mean", 1.0
        theirs = z[prefix + name]
        rows.append(compare(what, value, theirs, kind, scale=scale, where=name))
    return comparison.worst(rows, f"{what} statistics after {steps}")
