"""Replays training steps of DGKD's mean teacher."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill import dgkd, dgkd_network
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import distillation_networks as networks
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import (
    gradient_rows,
    grouped,
    loss_row,
    row,
)
from fof_jax.parity.rows.torch_layout import Recording
from fof_jax.training import published_optimizers
from fof_jax.types import StepContext, Variables

EPS = 1e-8
# Two frozen constants, 6 and -3, are in the published norm.
CONSTANTS = 9.0
LOSSES = {"path": "image", "omic": "omics", "fuse": "fuse"}


def replay(recording: Recording) -> list[Row]:
    """Runs the recorded steps with recorded dropout masks and compares each.

    Source: methods/distillation.md, "Names" (dgkd_teacher).
    """
    constants = torch_layout.under(recording, "cfg/")
    cfg = {name: value.tolist() for name, value in constants.items()}
    method, variables = _method(recording, cfg)
    optimizer = published_optimizers.adam_l2(
        beta1=cfg["beta1"],
        beta2=cfg["beta2"],
        eps=EPS,
        weight_decay=cfg["weight_decay"],
    )
    moments = optimizer.init(variables.params)
    gradient = _gradient(method)

    @jax.jit
    def descend(variables: Variables, g: Any, moments: Any, rate: Any) -> Any:
        direction, moments = optimizer.update(g, moments, variables.params)
        params = jax.tree.map(lambda p, d: p - rate * d, variables.params, direction)
        return dataclasses.replace(variables, params=params), moments

    rows: list[Row] = []
    for step in range(cfg["steps"]):
        epoch = step // cfg["steps_per_epoch"]
        z = torch_layout.under(recording, f"step{step}/")
        masks = tuple(
            networks.masks(recording, f"step{step}/mask/{copy}/")
            for copy in ("model", "ema")
        )
        batch = networks.batch_of(recording, step, epoch)
        (value, g), outputs = gradient(variables, batch, jnp.asarray(step), masks)
        (total, out), where = value, f"step {step}"
        rows += _step_rows(z, total, out.metrics, outputs, where, cfg)
        named = {
            name: torch_layout.from_flax(name, {"params": g}, networks.TEACHER_LAYERS)
            for name in torch_layout.under(z, "grad/")
        }
        rows += gradient_rows(
            named, torch_layout.under(z, "grad/"), "step gradient", where
        )
        rate = published_optimizers.linear_epochs(
            epoch,
            learning_rate=cfg["lr"],
            constant_epochs=cfg["niter"],
            decay_epochs=cfg["niter_decay"],
        )
        rows.append(row("rate", rate, z["lr"], "rate", where=where))
        variables, moments = descend(
            dataclasses.replace(variables, state=out.state), g, moments, rate
        )
        state = method.update_state(variables, jnp.asarray(step))
        variables = dataclasses.replace(variables, state=state)
        rows += _after_rows(z, variables, where)
    return grouped(rows) + _evaluation(recording, cfg, method)


def _gradient(method: dgkd.DGKD) -> Callable[..., Any]:
    """Compiled: loss and gradient of a step, and the outputs of both copies."""

    @jax.jit
    def gradient(variables: Variables, batch: Any, step: Any, masks: Any) -> Any:
        ctx = StepContext(
            key=jax.random.key(0), step=step, progress=0.0, gather=lambda x: x
        )

        def loss(params: Any) -> Any:
            with networks.dropping(*masks):
                return method.loss(
                    dataclasses.replace(variables, params=params), batch, ctx
                )

        copies = (
            (variables.params, variables.state["batch_stats"], batch.image),
            (*_average(variables), batch.second_view),
        )
        outputs = []
        for (params, statistics, image), mask in zip(copies, masks, strict=True):
            with networks.dropping(mask):
                out, _ = dgkd_network.forward_train(
                    method.network,
                    params,
                    statistics,
                    image,
                    batch.omics,
                    ctx.gather,
                    ctx.key,
                )
            outputs.append({name: of(out) for name, of in networks.OUTPUTS.items()})
        return jax.value_and_grad(loss, has_aux=True)(variables.params), outputs

    return gradient


def _average(variables: Variables) -> tuple[Any, Any]:
    average = variables.state["average"]
    return average["params"], average["batch_stats"]


def _method(recording: Recording, cfg: dict[str, Any]) -> tuple[dgkd.DGKD, Variables]:
    tensors = torch_layout.under(recording, "init/model/")
    model = networks.variables(tensors, networks.TEACHER_LAYERS)
    average = networks.variables(
        torch_layout.under(recording, "init/ema/"), networks.TEACHER_LAYERS
    )
    method = dgkd.DGKD(
        network=networks.teacher_network(tensors, cfg),
        classes=cfg["label_dim"],
        decay=cfg["ema_decay"],
        l1=cfg["lambda_reg"],
        divergence=cfg["KD_weight"],
        independent_average=True,
    )
    state = {"batch_stats": model["batch_stats"], "average": average}
    return method, Variables(params=model["params"], state=state, frozen={})


def _step_rows(
    z: dict[str, np.ndarray],
    total: Any,
    metrics: dict[str, Any],
    outputs: list[dict[str, Any]],
    where: str,
    cfg: dict[str, Any],
) -> list[Row]:
    rows: list[Row] = []
    for copy, ours in zip(("model", "ema"), outputs, strict=True):
        for name, value in ours.items():
            recorded = z[f"{copy}/{name}"]
            at = f"{copy} {name}, {where}"
            rows.append(row("outputs", value, recorded, "step output", where=at))
    for theirs, name in LOSSES.items():
        for kind in ("ce", "kd"):
            key = f"{kind}_{theirs}"
            rows.append(
                loss_row(
                    "losses",
                    metrics[f"{kind}_{name}"],
                    z[f"loss/{key}"],
                    "step loss",
                    f"{key}, {where}",
                )
            )
    norm = metrics["l1"] + CONSTANTS
    rows.append(loss_row("losses", norm, z["loss/reg_raw"], "step loss", where))
    whole = total + cfg["lambda_reg"] * CONSTANTS
    rows.append(loss_row("total", whole, z["loss/total"], "step loss", where))
    return rows


def _after_rows(
    z: dict[str, np.ndarray], variables: Variables, where: str
) -> list[Row]:
    params, statistics = _average(variables)
    copies = {
        "model": (variables.params, variables.state["batch_stats"]),
        "ema": (params, statistics),
    }
    rows: list[Row] = []
    for copy, (params, statistics) in copies.items():
        rows += networks.after_rows(
            copy,
            torch_layout.under(z, f"after/{copy}/"),
            {"params": params, "batch_stats": statistics},
            networks.TEACHER_LAYERS,
            "parameter, teacher",
            where,
        )
    return rows


def _evaluation(
    recording: Recording, cfg: dict[str, Any], method: dgkd.DGKD
) -> list[Row]:
    """The first batch in evaluation mode, with the recorded last parameters."""
    last = f"step{cfg['steps'] - 1}/after/"
    batch = networks.batch_of(recording, 0, 0)
    rows: list[Row] = []
    for copy in ("model", "ema"):
        ours = networks.variables(
            torch_layout.under(recording, f"{last}{copy}/"), networks.TEACHER_LAYERS
        )
        out = jax.jit(method.apply)(
            Variables(
                params=ours["params"],
                state={"batch_stats": ours["batch_stats"]},
                frozen={},
            ),
            batch,
        )
        for name, value in (
            ("fuse_feat", out.features),
            ("logits_fuse", out.logits),
        ):
            theirs = recording[f"eval/{copy}/{name}"]
            rows.append(row("evaluation", value, theirs, "step output", where=name))
    return grouped(rows)
