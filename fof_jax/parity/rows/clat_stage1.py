"""Replays recordings of CLAT's stage 1: masks, losses, gradients, optimizer steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.methods.distill import clat_masks as masks
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill import clat_teacher as teacher
from fof_jax.methods.distill import ema as moving_average
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import clat_names as names
from fof_jax.parity.rows.clat_rows import (
    Recording,
    adam,
    channels_last,
    check_dropout,
    compare,
    flatten,
    gradient_rows,
    loss_row,
    parameter_rows,
    statistics_row,
)

# ours -> the recording's
LOSSES = {
    "ce_fused": "ce_fuse",
    "ce_image": "ce_path",
    "ce_omic": "ce_omic",
    "kl_fused": "kl_fuse",
    "kl_image": "kl_path",
    "kl_omic": "kl_omic",
    "kl_masked_image": "kl_masked_image",
    "kl_masked_omic": "kl_masked_omic",
    "l1": "reg_l1",
}
BRANCHES = {"fused": "fuse", "image": "path", "omic": "omic"}
L1_CONSTANT = 9.0  # |6| + |-3|, M7


def recognizes(z: Recording) -> bool:
    """Whether a recording is of CLAT's stage 1."""
    return "cfg/omic_k" in z and "init/fusion.linear_z1.weight" in z


def input_masks(
    z: Recording, params: Any, statistics: Any, batch: dict[str, Any], *, capacity: int
) -> dict[str, Any]:
    """Gradients of the evaluation loss by the inputs, scores and masks."""

    def loss(image, omics):
        out, _ = network.multimodal(
            params, statistics, flatten(image), omics, train=False
        )
        logits = out.fused.logits
        return teacher.cross_entropy(logits, batch["grade"]), logits

    (value, logits), (by_image, by_omic) = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True
    )(batch["image"], batch["omic"])
    labels = batch["superpixels"]
    scores = masks.superpixel_scores(
        by_image, labels, capacity=capacity, absent_zero=True
    )
    return {
        "ce": value,
        "eval_log_prob": jax.nn.log_softmax(logits),
        "grad_image": by_image.transpose(0, 3, 1, 2),
        "grad_omic": by_omic,
        "score": scores,
        "path_mask": masks.superpixel_mask(scores, labels, count=int(z["cfg/path_k"])),
        "omic_mask": masks.omic_mask(by_omic, count=int(z["cfg/omic_k"])),
    }


def step_loss(
    z: Recording,
    params: Any,
    state: dict[str, Any],
    batch: dict[str, jax.Array],
    masked: dict[str, Any],
) -> teacher.TeacherStep:
    """The loss of a step as published: the EMA network in training mode (M4)."""
    hidden = jnp.where(masked["path_mask"][..., None], 0, batch["image"])
    encoded = teacher.Encoded(
        *map(
            flatten,
            (
                batch["image"],
                hidden,
                batch["image_ema"],
                batch["image_ema_mask1"],
                batch["image_ema_mask2"],
            ),
        )
    )
    return teacher.teacher_step(
        params,
        state["ema"],
        state["statistics"],
        state["ema_statistics"],
        encoded=encoded,
        omics=batch["omic"],
        omic_mask=masked["omic_mask"],
        grade=batch["grade"],
        lambda_l1=float(z["cfg/lambda_reg"]),
        l1_constant=L1_CONSTANT,
        ema_train=True,
    )


def batch_of(z: Recording, t: int) -> dict[str, Any]:
    """One recorded batch, images channels last."""
    prefix = f"batch{t}/"
    batch: dict[str, Any] = {
        name[len(prefix) :]: jnp.asarray(z[name])
        for name in z
        if name.startswith(prefix)
    }
    for name in ("image", "image_ema", "image_ema_mask1", "image_ema_mask2"):
        batch[name] = channels_last(z[prefix + name])
    return batch


def initial(z: Recording) -> tuple[Any, dict[str, Any]]:
    """The student's parameters, and the state beside them."""
    tables = names.MULTIMODAL
    state = {
        "statistics": names.statistics(z, "init/", tables),
        "ema": names.parameters(z, "ema_init/", tables),
        "ema_statistics": names.statistics(z, "ema_init/", tables),
    }
    return names.parameters(z, "init/", tables), state


def replay(z: Recording) -> list[Row]:
    """Compares every recorded quantity of stage 1 with ours.

    Source: methods/clat_pathgcn.md, CLAT stage 1 and Tolerances.
    """
    check_dropout(z)
    params, state = initial(z)
    optimizer = adam(z)
    optimizer_state = optimizer.init(params)

    def loss(params, state, batch, masked):
        out = step_loss(z, params, state, batch, masked)
        return out.total, out

    @jax.jit
    def advance(params, optimizer_state, gradient, ema, t):
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        decay = float(z["cfg/ema_decay"])
        ema = moving_average.averaged(ema, params, t, decay=decay)
        return params, optimizer_state, ema

    steps = int(z["cfg/steps"])
    capacity = max(z[f"mask{t}/score"].shape[1] for t in range(steps))
    find_masks = jax.jit(functools.partial(input_masks, z, capacity=capacity))
    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    rows: list[Row] = []
    by_loss: dict[str, list[Row]] = {}
    for t in range(steps):
        batch = batch_of(z, t)
        masked = find_masks(params, state["statistics"], batch)
        rows += _mask_rows(z, t, batch, masked)
        (_, out), gradient = differentiate(params, state, batch, masked)
        if t == 0:
            rows += _passes(z, out.passes) + gradient_rows(
                z, "t0/grad/", names.named_parameters(gradient, names.MULTIMODAL)
            )
        params, optimizer_state, ema = advance(
            params, optimizer_state, gradient, state["ema"], t
        )
        state = {
            "statistics": out.statistics,
            "ema": ema,
            "ema_statistics": out.ema_statistics,
        }
        figures = {theirs: out.terms[ours] for ours, theirs in LOSSES.items()}
        figures |= {"total": out.total, "mask_ce": masked["ce"]}
        for name, value in figures.items():
            row = loss_row(name, value, z[f"steps/{name}"][t], t)
            by_loss.setdefault(name, []).append(row)
        if f"after{t + 1}/classifier.0.bias" in z:
            rows += _after(z, t + 1, params, state)
    rate = z["steps/lr"]
    rows.append(
        compare("all steps rate", np.full_like(rate, z["cfg/lr"]), rate, "rate")
    )
    for name, group in by_loss.items():
        rows += [
            comparison.worst(chosen, f"{when} {name}")
            for when, chosen in (("step 0", group[:1]), ("later steps", group[1:]))
            if chosen
        ]
    return rows


def _after(z: Recording, steps: int, params: Any, state: dict[str, Any]) -> list[Row]:
    rows, table = [], names.MULTIMODAL
    for what, prefix, tree, moving in (
        ("student", f"after{steps}/", params, state["statistics"]),
        ("EMA", f"ema_after{steps}/", state["ema"], state["ema_statistics"]),
    ):
        named = names.named_parameters(tree, table)
        rows += parameter_rows(z, prefix, named, steps, what)
        moved = names.named_statistics(moving, table)
        rows.append(statistics_row(z, prefix, moved, steps, what))
    return rows


def _passes(z: Recording, passes: teacher.Passes) -> list[Row]:
    """Outputs of the six forward passes of step 0."""
    rows = []
    prefixes = ("s_masked_image", "s_masked_omic", "s", "ema_view1", "ema_view2", "ema")
    for prefix, branches in zip(prefixes, passes, strict=True):
        group = []
        for ours, theirs in BRANCHES.items():
            branch = getattr(branches, ours)
            for name, value in (
                (f"log_prob_{theirs}", jax.nn.log_softmax(branch.logits)),
                (f"feat_{theirs}", branch.features),
            ):
                key = f"t0/{prefix}/{name}"
                if key in z:
                    group.append(compare(name, value, z[key], "array", where=name))
        rows.append(comparison.worst(group, f"step 0 {prefix}"))
    return rows


def _mask_rows(
    z: Recording, t: int, batch: dict[str, Any], masked: dict[str, Any]
) -> list[Row]:
    prefix, kind = f"mask{t}/", "array later" if t else "array"
    # Labels beyond the batch's largest are not recorded.
    masked = masked | {"score": masked["score"][:, : z[f"{prefix}score"].shape[1]]}
    rows = [
        compare(f"step {t} {name}", masked[name], z[prefix + name], kind)
        for name in ("eval_log_prob", "grad_image", "grad_omic", "score")
    ]
    picked = np.asarray(masked["score"]).argmax(1)
    labels = np.asarray(batch["superpixels"])
    visible = (labels == picked[:, None, None]).any((1, 2))
    ours = masked | {"picked": np.where(visible, picked, -1)}
    compared = ["path_mask", "omic_mask"] + (["picked"] if z["cfg/path_k"] == 1 else [])
    return rows + [
        compare(f"step {t} {name}", ours[name], z[prefix + name], "mask", scale=1.0)
        for name in compared
    ]
