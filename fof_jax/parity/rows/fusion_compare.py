"""Comparisons of a replayed fusion module with its recording, and their tolerances."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.fusion_modules import Replay
from fof_jax.parity.rows.torch_layout import Path, Recording

# Largest deviation that an honest float32 replay of a float32 recording may show, as a
# share of the array's maximum; of a gradient's or, where it is larger, 1e-2 of the
# largest gradient of the case.
TOLERANCES = {
    "outputs": 1e-5,  # features, logits, every layer's output
    "losses": 5e-6,  # relative
    "gradients": 1e-5,
    "input gradients": 2e-5,
    "statistics": 5e-6,  # after the call
    "vanishing gradients": 1e-6,  # absolute, of the largest gradient of the case
    "no gradient": 0.0,
    "gradients, foaa": 2e-5,  # scalars that are sums of many cancelling terms
    "gradients, ddm": 2e-5,
    "gradients, hfb": 5e-5,  # 1 / sqrt(x) near 0
    "input gradients, hfb": 5e-5,
    # A channel whose variance over four rows is near 0 amplifies rounding: 1.1e-5 was
    # seen in gradients, 5.3e-6 in outputs and 8.7e-7 in vanishing ones.
    "outputs, batch norm": 3e-5,
    "gradients, batch norm": 5e-5,
    "input gradients, batch norm": 5e-5,
    "vanishing gradients, batch norm": 1e-5,
}
GRADIENT_FLOOR = 1e-2  # see above


def _tolerance(kind: str, replayed: Replay) -> float:
    return TOLERANCES.get(f"{kind}, {replayed.tolerances}", TOLERANCES[kind])


def outputs(
    title: str,
    recorded: Recording,
    outputs: dict[str, Any],
    captured: Any,
    replayed: Replay,
) -> Iterator[Row]:
    """Outputs of the module, and of every layer that the recording names."""
    tolerance = _tolerance("outputs", replayed)
    rows = []
    outputs = {**outputs, "log_softmax": jax.nn.log_softmax(outputs["logits"])}
    # What the survival codes return.
    outputs["published"] = 6 * jax.nn.sigmoid(outputs["logits"]) - 3
    for name, want in torch_layout.under(recorded, "out/").items():
        got = _sampled(name, np.asarray(outputs[name.partition("@")[0]]))
        rows.append(comparison.row("", got, want, tolerance, where=name))
    yield comparison.worst(rows, f"{title} outputs")
    rows = []
    for name, want in torch_layout.under(recorded, "mid/").items():
        layer, _, call = name.partition("@")[0].partition("#")
        if layer not in replayed.layers:
            continue  # an activation
        calls = _captured(captured, replayed.layers[layer])
        # Published classes may apply a layer twice to one input.
        got = _sampled(name, np.asarray(calls[min(int(call or 0), len(calls) - 1)]))
        rows.append(comparison.row("", got, want, tolerance, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} layers")


def _captured(captured: Any, path: Path) -> tuple[Any, ...]:
    for key in path:
        captured = captured[key]
    return captured["__call__"]


def losses_row(title: str, recorded: Recording, losses: dict[str, Any]) -> Row:
    """The losses, each relative to its size."""
    rows = [
        comparison.row("", losses[name], want, TOLERANCES["losses"], where=name)
        for name, want in torch_layout.under(recorded, "loss/").items()
    ]
    return comparison.worst(rows, f"{title} losses")


def gradients(
    title: str, recorded: Recording, gradient: Any, given: Any, replayed: Replay
) -> Iterator[Row]:
    """Gradients of parameters and inputs."""
    want = torch_layout.under(recorded, "grad/")
    largest = max(float(np.abs(v).max()) for k, v in want.items() if "@sum" not in k)
    tolerance = _tolerance("gradients", replayed)
    vanishing = set(recorded["grad_zero"].tolist())
    collections = {"params": gradient}
    rows, zeros = [], []
    for name, value in want.items():
        tensor = name.partition("@")[0]
        got = torch_layout.from_flax(tensor, collections, replayed.layers)
        if got is None:
            continue
        if tensor in vanishing:
            size = np.abs(got).max()
            zero = _tolerance("vanishing gradients", replayed)
            zeros.append(comparison.row("", size, 0, zero, scale=largest, where=tensor))
            continue
        rows.append(_gradient(name, got, value, tolerance, largest))
    yield comparison.worst(rows, f"{title} gradients")
    if zeros:
        yield comparison.worst(zeros, f"{title} vanishing gradients")
    rows = []
    for name in recorded["grad_none"].tolist():
        got = torch_layout.from_flax(name, collections, replayed.layers)
        if got is not None:
            zero = TOLERANCES["no gradient"]
            rows.append(comparison.row("", got, 0 * got, zero, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} no gradient")
    tolerance = _tolerance("input gradients", replayed)
    rows = [
        _gradient(name, np.asarray(given[name.partition("@")[0]]), v, tolerance, 0.0)
        for name, v in torch_layout.under(recorded, "grad_in/").items()
    ]
    yield comparison.worst(rows, f"{title} input gradients")


def _gradient(
    name: str, got: np.ndarray, want: np.ndarray, tolerance: float, largest: float
) -> Row:
    scale = max(float(np.abs(want).max()), GRADIENT_FLOOR * largest) or 1.0
    if name.endswith("@sum"):  # sum and sum of squares, each by its own size
        scale = 1.0
        size = np.abs(got).astype(np.float64)
        norm = np.array([size.sum(), (size**2).sum()]) + 1e-30
        return comparison.row(
            "",
            _sampled(name, got) / norm,
            want / norm,
            tolerance,
            scale=1.0,
            where=name,
        )
    return comparison.row(
        "", _sampled(name, got), want, tolerance, scale=scale, where=name
    )


def _sampled(name: str, value: np.ndarray) -> np.ndarray:
    """What is stored of a big array: every S-th entry, or its two sums."""
    part = name.partition("@")[2]
    if part.startswith("flat"):
        return value.ravel()[:: int(part.removeprefix("flat"))]
    if part == "sum":
        wide = value.astype(np.float64)
        return np.array([wide.sum(), (wide**2).sum()])
    return value


def statistics(
    title: str, recorded: Recording, updated: Any, replayed: Replay
) -> Iterator[Row]:
    """BatchNorm statistics after the call."""
    rows = []
    for name, want in torch_layout.under(recorded, "buffer_after/").items():
        got = torch_layout.from_flax(name, updated, replayed.layers)
        if got is not None:
            tolerance = TOLERANCES["statistics"]
            rows.append(comparison.row("", got, want, tolerance, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} statistics")
