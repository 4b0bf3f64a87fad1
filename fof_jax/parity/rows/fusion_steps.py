"""Replays recorded training steps of Pathomic Fusion, two-stage and single-stage."""

import json
from typing import Any

import jax
import numpy as np

from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import fusion_trainer, torch_layout
from fof_jax.parity.rows.fusion_trainer import State, Trainer
from fof_jax.parity.rows.torch_layout import Recording
from fof_jax.training import published_optimizers

# As in `fusion`; parameters and averages absolute, after the last recorded step.
TOLERANCES = {
    "outputs": 1e-5,
    "losses": 5e-6,
    # Batch statistics over 8 rows amplify rounding: 1e-5 was seen between float32 and
    # float64 of the published code.
    "losses, single-stage": 3e-5,
    "outputs, single-stage": 3e-5,
    "rate": 1e-9,
    "gradients": 2e-5,
    "parameters": 5e-6,
    "parameters, single-stage": 2e-5,
    "statistics": 2e-4,
    "steps": 0.0,
}
GRADIENT_FLOOR = 1e-2
EPS = 1e-8


def matches(recording: Recording, case: str) -> bool:
    """Whether a case is a recording of training steps of this format."""
    return f"{case}/cfg/niter_decay" in recording and f"{case}/steps/lr" in recording


def replay(recording: Recording, case: str) -> list[Row]:
    """Runs the recorded steps and compares each.

    Args:
      recording: arrays by name.
      case: prefix of the names.

    Returns:
      rows for rates, losses, outputs, gradients, parameters and statistics.

    Raises:
      ValueError: a tensor has no counterpart.

    Source: methods/fusion.md "Training-step files"; corrections 8, 9, 19.
    """
    cfg = torch_layout.config(recording, case)
    trainer = fusion_trainer.build(cfg)
    optimizer = published_optimizers.adam_l2(
        beta1=cfg["beta1"],
        beta2=cfg["beta2"],
        eps=EPS,
        weight_decay=cfg["weight_decay"],
        frozen_epochs=trainer.frozen_epochs,
    )
    state = fusion_trainer.initial(recording, case, trainer, optimizer)
    # The constants of the published classes are in their norm.
    constants = sum(
        float(np.abs(recording[f"{case}/init/omic_net.{name}"]).sum())
        for name in torch_layout.CONSTANTS
    )
    step_of = fusion_trainer.compile_step(cfg, trainer, constants)

    @jax.jit
    def advance(
        state: State, gradient: Any, step: Any, epoch: Any, rate: Any
    ) -> tuple[Any, Any, Any]:
        direction, moments = optimizer.update(
            gradient, state.optimizer, state.params, epoch=epoch
        )
        params = _moved(state.params, direction, rate)
        average = state.average
        if average is not None:
            average = published_optimizers.moving_average(
                average, params, step=step, decay=cfg["ema_decay"]
            )
        return params, moments, average

    comparisons: dict[str, list[Row]] = {}
    for step in range(cfg["steps"]):
        batch = torch_layout.under(recording, f"{case}/batch{step}/")
        losses, outputs, gradient, statistics, average_statistics = step_of(
            state, batch
        )
        epoch = step + cfg["epoch_count"] - 1
        losses["lr"] = rate = published_optimizers.linear_epochs(
            epoch,
            learning_rate=cfg["lr"],
            constant_epochs=cfg["niter"],
            decay_epochs=cfg["niter_decay"],
        )
        params, moments, average = advance(state, gradient, step, epoch, rate)
        state = State(params, statistics, moments, average, average_statistics)
        _compare_step(comparisons, recording, case, step, losses, outputs, trainer)
        _compare_gradients(comparisons, recording, case, step, gradient, trainer)
        _compare_after(comparisons, recording, case, step + 1, state, trainer)
    _compare_counts(comparisons, recording, case, state, trainer)
    return [
        comparison.worst(rows, f"{case} {quantity}")
        for quantity, rows in comparisons.items()
    ]


def _moved(params: Any, direction: Any, rate: jax.Array) -> Any:
    return jax.tree.map(lambda p, d: p - rate * d, params, direction)


def _tolerance(kind: str, trainer: Trainer) -> float:
    return TOLERANCES.get(f"{kind}, {trainer.form}", TOLERANCES[kind])


def _compare_step(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    step: int,
    losses: dict[str, Any],
    outputs: dict[str, Any],
    trainer: Trainer,
) -> None:
    for name, value in losses.items():
        kind = "rate" if name == "lr" else "losses"
        want = recording[f"{case}/steps/{name}"][step]
        row = comparison.row(
            "", value, want, _tolerance(kind, trainer), where=f"{name} of step {step}"
        )
        comparisons.setdefault(kind, []).append(row)
    for name, value in outputs.items():
        key = f"{case}/steps/{name}{step}"
        if key in recording:
            row = comparison.row(
                "", value, recording[key], _tolerance("outputs", trainer), where=key
            )
            comparisons.setdefault("outputs", []).append(row)


def _compare_gradients(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    step: int,
    gradient: Any,
    trainer: Trainer,
) -> None:
    want = torch_layout.under(recording, f"{case}/grad{step}/")
    if not want:
        return
    largest = max(float(np.abs(value).max()) for value in want.values())
    ignored = _vanishing(recording, case)
    for name, value in want.items():
        got = torch_layout.from_flax(name, {"params": gradient}, trainer.layers)
        if got is None or name in ignored:
            continue
        scale = max(float(np.abs(value).max()), GRADIENT_FLOOR * largest)
        row = comparison.row(
            "",
            got,
            value,
            _tolerance("gradients", trainer),
            scale=scale,
            where=f"{name} of step {step}",
        )
        comparisons.setdefault("gradients", []).append(row)


def _compare_after(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    steps: int,
    state: State,
    trainer: Trainer,
) -> None:
    ignored = _vanishing(recording, case)
    for prefix, kind, params, statistics in (
        ("after", "parameters", state.params, None),
        ("buffer_after", "statistics", None, state.statistics),
        ("ema_after", "averages", state.average, None),
        ("ema_buffer_after", "average statistics", None, state.average_statistics),
    ):
        recorded = torch_layout.under(recording, f"{case}/{prefix}{steps}/")
        for name, want in recorded.items():
            collections = {"params": params, "batch_stats": statistics}
            got = torch_layout.from_flax(name, collections, trainer.layers)
            if got is None or name in ignored:
                continue
            of = "statistics" if "statistics" in kind else "parameters"
            scale = 1.0 if of == "parameters" else None
            where = f"{name} after {steps} steps"
            tolerance = _tolerance(of, trainer)
            row = comparison.row("", got, want, tolerance, scale=scale, where=where)
            comparisons.setdefault(kind, []).append(row)


def _compare_counts(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    state: State,
    trainer: Trainer,
) -> None:
    """Steps that Adam has taken on each tensor."""
    if f"{case}/adam_step" not in recording:
        return
    counts = {"params": state.optimizer.count}
    for name, want in json.loads(str(recording[f"{case}/adam_step"])).items():
        got = torch_layout.from_flax(name, counts, trainer.layers)
        if got is not None:
            row = comparison.row("", got, want, TOLERANCES["steps"], where=name)
            comparisons.setdefault("steps of each tensor", []).append(row)


def _vanishing(recording: Recording, case: str) -> set[str]:
    """Biases before a BatchNorm: Adam moves them by rounding."""
    return set(recording.get(f"{case}/grad_zero", np.array([], str)).tolist())
