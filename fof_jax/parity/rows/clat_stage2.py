"""Replays recordings of CLAT's stage 2: contrasts, weights, gradients, steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill import clat_student as student
from fof_jax.methods.distill import ema as moving_average
from fof_jax.methods.distill.clat_losses import Neighbors
from fof_jax.methods.distill.clat_student import TEACHERS, Pair
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import clat_names as names
from fof_jax.parity.rows.clat_rows import (
    Recording,
    adam,
    check_dropout,
    compare,
    flatten,
    gradient_rows,
    loss_row,
    parameter_rows,
    statistics_row,
)
from fof_jax.parity.rows.clat_stage2_setup import (
    BANKS,
    batch_of,
    initial,
    settings_of,
)

KL_FLOOR = 1e-2  # KL against the EMA is about 1e-3 at step 1, a difference of equals


def recognizes(z: Recording) -> bool:
    """Whether a recording is of CLAT's stage 2."""
    return "cfg/nce_k" in z and "init/teacher.fusion.linear_z1.weight" in z


def neighbors_of(z: Recording, t: int, state: Any, batch: Any) -> dict[str, Pair]:
    """Positives by our rule, with the recorded rows where their weight is 0.

    Such rows of another class change nothing but the first Z, and which row of equal
    cosine 0 it is depends on the sort (S3).
    """
    labels = jnp.asarray(z["labels"])
    out = {}
    for name in TEACHERS:
        pair = student.nearest(
            state["memories"][name],
            labels,
            batch["index"],
            count=int(z["cfg/nce_p"]),
        )
        prefix = f"t{t}/crd_{name}/"
        out[name] = Pair(
            *(
                Neighbors(
                    jnp.where(
                        z[f"{prefix}similarity_{side}"] == 0,
                        z[f"{prefix}neighbours_{side}"],
                        ours.rows,
                    ),
                    ours.weight,
                )
                for side, ours in zip(BANKS, pair, strict=True)
            )
        )
    return out


def step_loss(
    z: Recording, params: Any, state: Any, batch: Any, neighbors: dict[str, Pair]
) -> tuple[student.StudentStep, dict[str, Any]]:
    """The loss of a step as published: both teachers in training mode (S1, M4).

    Returns:
      The step, and the teachers' outputs and statistics.
    """
    ema, ema_statistics = network.image_head(
        state["ema"], state["ema_statistics"], flatten(batch["image_ema"]), train=True
    )
    fixed, teacher_statistics = network.multimodal(
        state["teacher"],
        state["teacher_statistics"],
        flatten(batch["image"]),
        batch["omic"],
        train=True,
    )
    out = student.student_step(
        params,
        state["statistics"],
        state["memories"],
        encoded=flatten(batch["image"]),
        teachers={"fused": fixed.fused, "ema": ema},
        neighbors=neighbors,
        negatives=batch["negatives"],
        index=batch["index"],
        grade=batch["grade"],
        settings=settings_of(z),
    )
    return out, {
        "ema": ema,
        "teacher": fixed.fused,
        "ema_statistics": ema_statistics,
        "teacher_statistics": teacher_statistics,
    }


def replay(z: Recording) -> list[Row]:
    """Compares every recorded quantity of stage 2 with ours.

    Source: methods/clat_pathgcn.md, CLAT stage 2 and Tolerances.
    """
    check_dropout(z)
    params, state = initial(z)
    optimizer = adam(z)
    optimizer_state = optimizer.init(params)

    def loss(params, state, batch, neighbors):
        out, outputs = step_loss(z, params, state, batch, neighbors)
        return out.total, (out, outputs)

    @jax.jit
    def advance(params, optimizer_state, gradient, ema, t):
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        decay = float(z["cfg/ema_decay"])
        ema = moving_average.averaged(ema, params["head"], t, decay=decay)
        return params, optimizer_state, ema

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    rows: list[Row] = []
    for t in range(int(z["cfg/steps"])):
        batch = batch_of(z, t)
        neighbors = neighbors_of(z, t, state, batch)
        (_, (out, outputs)), gradient = differentiate(params, state, batch, neighbors)
        rows += _outputs(z, t, out, outputs, neighbors)
        if t == 0:
            rows += gradient_rows(z, "t0/grad/", _named(gradient))
        params, optimizer_state, ema = advance(
            params, optimizer_state, gradient, state["ema"], t
        )
        state = state | {
            "statistics": out.statistics,
            "ema": ema,
            "ema_statistics": outputs["ema_statistics"],
            "teacher_statistics": outputs["teacher_statistics"],
            "memories": {name: c.memory for name, c in out.contrasts.items()},
        }
        rows += _after(z, t + 1, params, state)
    rate = z["steps/lr"]
    same = np.full_like(rate, z["cfg/lr"])
    return [*rows, compare("all steps rate", same, rate, "rate")]


def _named(params: Any) -> dict[str, np.ndarray]:
    """Trained tensors by published name."""
    named = {
        f"model.{name}": value
        for name, value in names.named_parameters(
            params["head"], names.IMAGE_HEAD
        ).items()
    }
    for teacher in TEACHERS:
        embeddings = names.named_parameters(params[teacher], names.EMBEDDINGS)
        named |= {f"crd_{teacher}.{name}": value for name, value in embeddings.items()}
    return named


def _outputs(
    z: Recording,
    t: int,
    out: student.StudentStep,
    outputs: dict[str, Any],
    neighbors: dict[str, Pair],
) -> list[Row]:
    """Everything that is recorded of a forward pass."""
    kind, step = "array later" if t else "array", f"step {t} "
    rows = []

    def array(name: str, ours: Any, **options: Any) -> None:
        rows.append(compare(step + name, ours, z[f"t{t}/{name}"], kind, **options))

    for name in ("student", "ema", "teacher"):
        branch = out.student if name == "student" else outputs[name]
        array(f"{name}/feature", branch.features)
        array(f"{name}/logits", branch.logits)
    for name in TEACHERS:
        rows += _contrast(z, t, name, out.contrasts[name], neighbors[name])
        kl = losses.divergence(
            student=out.student.logits,
            teacher=outputs["teacher" if name == "fused" else "ema"].logits,
        )
        largest = float(np.abs(z[f"t{t}/kl_{name}"]).max())
        array(f"kl_{name}", kl, scale=max(largest, KL_FLOOR))
        theirs = z[f"t{t}/crd_{name}/loss"]
        ours = out.contrasts[name].sample_loss.mean()
        rows.append(loss_row(f"{step}crd_{name}/loss", ours, theirs, t))
    array("terms", out.terms)
    for i, name in enumerate(("kl_fused", "kl_ema", "crd_fused", "crd_ema", "ce")):
        theirs = z[f"t{t}/term_gradients"]
        scale = max(float(np.abs(theirs[i]).max()), 1e-3 * float(np.abs(theirs).max()))
        a, b, quantity = out.gradients[i], theirs[i], f"{step}term_gradients {name}"
        rows.append(compare(quantity, a, b, kind, scale=scale or 1.0))
    array("cosines", losses.cosines(out.gradients))
    name = f"t{t}/weights"
    rows.append(compare(f"{step}weights", out.weights, z[name], "mask", scale=1.0))
    for name, ours in (("kd", out.kd), ("ce", out.ce), ("total", out.total)):
        theirs = z[f"t{t}/loss_{name}"]
        rows.append(loss_row(f"{step}loss_{name}", ours, theirs, t))
    return rows


def _contrast(
    z: Recording, t: int, name: str, ours: student.Contrast, neighbors: Pair
) -> list[Row]:
    prefix, kind = f"t{t}/crd_{name}/", "array later" if t else "array"
    rows = []

    def array(quantity: str, value: Any) -> None:
        theirs = z[prefix + quantity]
        rows.append(compare(f"step {t} crd_{name}/{quantity}", value, theirs, kind))

    for side in BANKS:
        ours_side = getattr(neighbors, side)
        theirs = z[f"{prefix}neighbours_{side}"]
        # Those of weight 0 were taken from the recording.
        quantity = f"step {t} crd_{name}/neighbours_{side}"
        rows.append(compare(quantity, ours_side.rows, theirs, "mask", scale=1.0))
        array(f"similarity_{side}", ours_side.weight)
        array(f"embed_{side}", getattr(ours, f"embed_{side}"))
        array(f"out_{side}", getattr(ours, f"out_{side}"))
        array(f"Z_{side}", getattr(ours.memory, f"z_{side}"))
    array("query_weight", ours.query)
    array("sample_loss", ours.sample_loss)
    return rows


def _after(z: Recording, steps: int, params: Any, state: Any) -> list[Row]:
    """Banks after every step, and parameters and statistics where recorded."""
    rows, prefix = [], f"after{steps}/"
    banks = []
    for name in TEACHERS:
        for bank, published in BANKS.items():
            key = f"{prefix}crd_{name}.contrast.{published}"
            ours = getattr(state["memories"][name], bank)
            if key in z:
                kind = "bank later" if steps > 1 else "bank"
                banks.append(compare("", ours, z[key], kind, scale=1.0, where=key))
    if banks:
        rows.append(comparison.worst(banks, f"banks after {steps}"))
    if f"{prefix}model.fc_new2.bias" not in z:
        return rows
    named = _named(params)
    rows += parameter_rows(z, prefix, named, steps, "student and embeddings")
    ema = names.named_parameters(state["ema"], names.IMAGE_HEAD)
    rows += parameter_rows(z, f"{prefix}ema.", ema, steps, "EMA")
    for what, published, table in (
        ("student", "model", names.IMAGE_HEAD),
        ("EMA", "ema", names.IMAGE_HEAD),
        ("teacher", "teacher", names.MULTIMODAL),
    ):
        key = "statistics" if what == "student" else f"{published}_statistics"
        moved = names.named_statistics(state[key], table)
        rows.append(statistics_row(z, f"{prefix}{published}.", moved, steps, what))
    return rows
