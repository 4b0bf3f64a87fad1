"""Replays training steps of the distillation rows and of the DGKD student."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill import crd, dc
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import distillation_banks as banks
from fof_jax.parity.rows import distillation_cases as cases
from fof_jax.parity.rows import distillation_networks as networks
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import (
    gradient_rows,
    grouped,
    row,
)
from fof_jax.parity.rows.torch_layout import Recording
from fof_jax.training import published_optimizers
from fof_jax.types import StepContext, Variables

EPS = 1e-8


def run(recording: Recording, case: cases.Case, cfg: Mapping[str, Any]) -> list[Row]:
    """Runs the recorded steps of one row and compares each.

    Args:
      recording: arrays by name.
      case: the row.
      cfg: constants.

    Returns:
      rows of outputs, losses, weights, gradients, parameters, banks and statistics.

    Source: methods/distillation.md, "Names".
    """
    variables = _initial(recording, case, cfg)
    optimizer = published_optimizers.adam_l2(
        beta1=cfg["beta1"],
        beta2=cfg["beta2"],
        eps=EPS,
        weight_decay=cfg["weight_decay"],
    )
    moments = optimizer.init(variables.params)
    advance = _advance(case, optimizer)
    rows: list[Row] = []
    for step in range(cfg["steps"]):
        epoch = step // cfg.get("steps_per_epoch", cfg["steps"])
        z = torch_layout.under(recording, f"{case.prefix}step{step}/")
        batch = networks.batch_of(recording, step, epoch)
        variables = dataclasses.replace(
            variables,
            frozen=variables.frozen | {"teacher": _teacher(recording, case, step)},
        )
        rate = published_optimizers.linear_epochs(
            epoch,
            learning_rate=cfg["lr"],
            constant_epochs=cfg.get("niter", 0),
            decay_epochs=cfg.get("niter_decay", 30),
        )
        if "lr" in z:
            rows.append(row("rate", rate, z["lr"], "rate", where=f"step {step}"))
        else:
            rate = cfg["lr"]  # the recording has one rate
        variables, moments, metrics, outputs, g = advance(
            variables,
            moments,
            batch,
            jnp.asarray(step),
            _drawn(recording, case, step, z),
            rate,
        )
        where = f"step {step}"
        rows += cases.step_rows(z, case, metrics, outputs, where)
        layers = cases.layers_of(case)
        named = {
            name: torch_layout.from_flax(name, {"params": g}, layers)
            for name in torch_layout.under(z, "grad/")
            if name.rpartition(".")[0] in layers
        }
        rows += gradient_rows(
            named, torch_layout.under(z, "grad/"), "step gradient", where
        )
        rows += cases.after_rows(z, case, variables, where)
    return grouped(rows, case.prefix.replace("/", " "))


def _advance(case: cases.Case, optimizer: Any) -> Callable[..., Any]:
    """Compiled: one step, with its metrics, outputs and gradient."""

    @jax.jit
    def advance(
        variables: Variables, moments: Any, batch: Any, step: Any, drawn: Any, rate: Any
    ) -> Any:
        method = cases.sampled(case.method, drawn)
        ctx = StepContext(
            key=jax.random.key(0), step=step, progress=0.0, gather=lambda x: x
        )

        def loss(params: Any) -> Any:
            return method.loss(
                dataclasses.replace(variables, params=params), batch, ctx
            )

        (_, out), g = jax.value_and_grad(loss, has_aux=True)(variables.params)
        features, _ = method.network.encode(
            variables.params, variables.state["batch_stats"], batch.image, ctx.key
        )
        outputs = {
            "feat": features,
            "logits": method.network.logits(variables.params, features),
        }
        direction, moments = optimizer.update(g, moments, variables.params)
        params = jax.tree.map(lambda p, d: p - rate * d, variables.params, direction)
        new = dataclasses.replace(variables, params=params, state=out.state)
        new = dataclasses.replace(new, state=method.update_state(new, step))
        return new, moments, out.metrics, outputs, g

    return advance


def _initial(
    recording: Recording, case: cases.Case, cfg: Mapping[str, Any]
) -> Variables:
    tensors = torch_layout.under(recording, "init/student/")
    tensors = tensors or torch_layout.under(recording, "init/")
    model = networks.variables(tensors, networks.STUDENT_LAYERS)
    heads: dict[str, Any] = {}
    memories: dict[str, Any] = {}
    tensors = torch_layout.under(recording, f"{case.prefix}init/heads/")
    tensors = tensors or torch_layout.under(recording, "init/heads/")
    for term in case.method.terms:
        heads[term.name], memories[term.name] = {}, {}
        if term.name not in case.heads:
            continue
        one = torch_layout.under(tensors, f"{case.heads[term.name]}.")
        linear = {k: v for k, v in one.items() if not k.startswith("contrast.")}
        heads[term.name] = networks.variables(linear, banks.LAYERS)["params"]
        memories[term.name] = banks.initial_banks(one)
    state = {"batch_stats": model["batch_stats"], "terms": memories}
    if any(term.source == "ema" for term in case.method.terms):
        state["average"] = networks.variables(
            torch_layout.under(recording, "init/ema/"), networks.STUDENT_LAYERS
        )
    if case.method.rule == "running_counts":
        state["counts"] = jnp.zeros(len(case.method.terms) + 1)
    frozen = {}
    if case.heads:
        rows = next(len(bank["student"]) for bank in memories.values() if bank)
        # Grades only matter where rows are drawn, and draws are recorded.
        frozen["labels"] = {
            "index": jnp.arange(rows),
            "grade": jnp.zeros(rows, jnp.int32),
        }
    params = model["params"] | {"heads": heads}
    return Variables(params=params, state=state, frozen=frozen)


def _teacher(recording: Recording, case: cases.Case, step: int) -> Variables:
    z = torch_layout.under(recording, case.outputs.format(step=step))
    features = z["ft"] if "ft" in z else z["fuse_feat"]
    logits = z["yt"] if "yt" in z else z["logits_fuse"]
    outputs = {"features": jnp.asarray(features), "logits": jnp.asarray(logits)}
    return Variables(params=outputs, state={}, frozen={})


def _drawn(
    recording: Recording, case: cases.Case, step: int, z: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Recorded draws of each term with banks."""
    key = f"batch{step}/idx"
    idx = z.get("idx", recording.get(key, np.zeros(0, np.int32)))
    drawn: dict[str, Any] = {}
    for term in case.method.terms:
        if isinstance(term, dc.DC):
            suffix = f"/{case.heads[term.name]}"
            drawn[term.name] = banks.dc_sample({**z, "idx": idx}, term, suffix)
        elif isinstance(term, crd.BankTerm):
            drawn[term.name] = jnp.asarray(idx)
    return drawn
