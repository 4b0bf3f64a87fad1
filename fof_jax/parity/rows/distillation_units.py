"""Replays single distillation losses and the rules that weight terms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill import combine, features_kl, kl, pkt, rkd, sp
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import grouped, loss_row, row
from fof_jax.parity.rows.torch_layout import Recording

THRESHOLD, MOMENTUM = 0.1, 0.5  # of the published running counts
RUNNING_STEPS = 3


# A loss takes numbers after both sides, so that it is compiled once for each shape.


def _divergence(s: jax.Array, t: jax.Array, temperature: jax.Array) -> jax.Array:
    return kl.divergence(student=s, teacher=t, temperature=temperature)


def _features(s: jax.Array, t: jax.Array) -> jax.Array:
    return features_kl.features_divergence(student=s, teacher=t)


def _transfer(s: jax.Array, t: jax.Array) -> jax.Array:
    return pkt.probabilistic_transfer(student=s, teacher=t)


def _similarity(s: jax.Array, t: jax.Array) -> jax.Array:
    return sp.similarity_preserving(student=s, teacher=t)


def _relational(
    s: jax.Array, t: jax.Array, distance: jax.Array, angle: jax.Array
) -> jax.Array:
    return rkd.relational(
        student=s, teacher=t, distance_weight=distance, angle_weight=angle
    )


LOSSES: dict[str, tuple[Callable[..., jax.Array], tuple[float, ...]]] = {
    "feats_kl": (_features, ()),
    "pkt": (_transfer, ()),
    "sp": (_similarity, ()),
    "rkd": (_relational, (rkd.DISTANCE_WEIGHT, rkd.ANGLE_WEIGHT)),
}
RKD_PARTS = {"d": (1.0, 0.0), "a": (0.0, 1.0)}


@functools.partial(jax.jit, static_argnums=0)
def _gradient(
    function: Callable[..., jax.Array], s: jax.Array, t: jax.Array, *numbers: Any
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    def loss(s: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = function(s, t, *numbers)
        return each.mean(), each

    return jax.value_and_grad(loss, has_aux=True)(s)


def replay(recording: Recording) -> list[Row]:
    """Compares every single loss, its gradient and its values of each row.

    Where the published code gives NaN or a gradient of the order of 1e11 (RKD of one
    row, PKT and SP at a zero feature, RKD at equal features), ours has to be finite,
    and the other rows of the gradient are compared.

    Source: methods/distillation.md, "Formulas" and "Deviations".
    """
    rows: list[Row] = []
    for case in _cases(recording, "kl"):
        z = torch_layout.under(recording, f"kl/{case}/")
        call: tuple[Any, ...] = (_divergence, z["ys"], z["yt"], z["T"])
        number = case.partition("_")[0]
        rows += _loss("kl", case, str(recording[f"kinds/{number}"]), call, z)
    for name, (function, numbers) in LOSSES.items():
        for case in _cases(recording, name):
            z = torch_layout.under(recording, f"{name}/{case}/")
            what = str(recording[f"kinds/{case}"])
            sides = (function, z["fs"], z["ft"])
            rows += _loss(name, case, what, (*sides, *numbers), z)
            for part, weights in RKD_PARTS.items() if name == "rkd" else ():
                recorded = {"loss": z[f"loss_{part}"], "grad_fs": z[f"grad_{part}"]}
                call = (*sides, *weights)
                rows += _loss(f"rkd {part}", case, what, call, recorded)
    return grouped(rows) + _rules(recording)


def _cases(recording: Recording, name: str) -> list[str]:
    prefix = f"{name}/"
    names = (key.split("/")[1] for key in recording if key.startswith(prefix))
    return list(dict.fromkeys(names))


def _loss(
    name: str, case: str, what: str, call: tuple[Any, ...], z: dict[str, np.ndarray]
) -> list[Row]:
    """Rows of one call (function, student, teacher, numbers)."""
    (value, each), gradient = _gradient(*call)
    s = call[1]
    wanted, wanted_gradient = z["loss"], z["grad_ys" if name == "kl" else "grad_fs"]
    if not np.isfinite(wanted):  # RKD of one row
        wanted, wanted_gradient = np.zeros(()), np.zeros_like(s)
    exact_zero = "same" in what or (name.startswith("rkd") and len(s) <= 2)
    duplicates = name.startswith("rkd") and "dup" in what
    loss_kind = gradient_kind = None
    if exact_zero:
        loss_kind, gradient_kind = "loss, zero", "gradient, zero"
    elif name == "pkt":
        loss_kind, gradient_kind = "loss, pkt", "gradient, pkt"
    elif duplicates:
        loss_kind, gradient_kind = "loss, duplicates", "gradient, duplicates"
    loss_kind, gradient_kind = loss_kind or "loss", gradient_kind or "gradient"
    if loss_kind == "loss, zero":
        rows = [row(f"{name} loss", value, wanted, loss_kind, scale=1.0, where=case)]
    else:
        rows = [loss_row(f"{name} loss", value, wanted, loss_kind, case)]
    keep = _smooth_rows(name, s)
    ours = np.asarray(gradient)
    if not np.isfinite(ours).all():
        ours = np.full_like(ours, np.nan)
    else:
        ours = ours[keep]
        wanted_gradient = wanted_gradient[keep]
    scale = 1.0 if exact_zero else None
    rows.append(
        row(
            f"{name} gradient",
            ours,
            wanted_gradient,
            gradient_kind,
            scale=scale,
            where=case,
        )
    )
    if "per_sample" in z:
        kind = "loss, zero" if exact_zero else "loss, per sample"
        rows.append(
            row(
                f"{name} per sample",
                each,
                z["per_sample"],
                kind,
                scale=scale,
                where=case,
            )
        )
    return rows


def _smooth_rows(name: str, s: np.ndarray) -> np.ndarray:
    """Rows of the gradient that the published code computes without 0 / 0."""
    keep = np.ones(len(s), bool)
    if name in ("pkt", "sp"):
        keep &= (s != 0).any(axis=1)
    if name.startswith("rkd"):
        equal = (s[:, None] == s[None, :]).all(axis=2)
        keep &= equal.sum(axis=1) == 1
    return keep


def _rules(recording: Recording) -> list[Row]:
    @jax.jit
    def figures(g: jax.Array) -> dict[str, Any]:
        running, steps = jnp.zeros(len(g)), []
        for step in range(RUNNING_STEPS):
            counts = combine.agreement_counts(_turned(g, step), threshold=THRESHOLD)
            running = combine.running(running, counts, momentum=MOMENTUM)
            steps.append(running)
        return {
            "x22": combine.cosine_sums(g, scaled=True),
            "xm2lr_cos": combine.cosine_sums(g, scaled=False),
            "running": steps,
            "batch": combine.agrees_batch(g),
            "sample": combine.agrees_sample(g),
        }

    rows: list[Row] = []
    for name in _cases(recording, "rules"):
        z = torch_layout.under(recording, f"rules/{name}/")
        values = z["values"][:-1]
        ours = jax.device_get(figures(jnp.asarray(z["grads"])))
        for form in ("x22", "xm2lr_cos"):
            weights = ours[form]
            rows += _rule(form, name, weights, weights[:-1] @ values, z, form)
        for step, weights in enumerate(ours["running"]):
            key = f"xm2lr_running/{step}"
            rows += _rule("xm2lr running", name, weights, weights[:-1] @ values, z, key)
        keep, each = ours["batch"], ours["sample"]
        rows += [
            row("rule sckd batch", keep, z["sckd_batch_mask"], "equal", where=name),
            row(
                "rule sckd total",
                keep.astype(np.float32) @ values,
                z["sckd_batch_total"],
                "rule",
                where=name,
            ),
        ]
        mask = z["sckd_sample_mask"].reshape(each.shape)
        total = (each * z["values_per_sample"].T).sum() / len(each)
        rows += [
            row("rule sckd sample", each, mask, "equal", where=name),
            row("rule sckd total", total, z["sckd_sample_total"], "rule", where=name),
        ]
    return grouped(rows)


def _turned(g: jax.Array, step: int) -> jax.Array:
    """Gradients of the steps of the running rule: terms change sign one by one."""
    if step == 0:
        return g
    return g.at[:step].multiply(-1)


def _rule(
    form: str, name: str, weights: Any, total: Any, z: dict[str, np.ndarray], key: str
) -> list[Row]:
    return [
        row(f"rule {form}", weights, z[f"{key}_scale"], "rule", where=f"{name} {key}"),
        row(f"rule {form}", total, z[f"{key}_total"], "rule", where=f"{name} {key}"),
    ]
