"""Replays recordings of single functions of the authors' code."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.release import averaging, cam, losses
from fof_jax.parity import release_optimizer
from fof_jax.parity.comparison import Row, row, worst
from fof_jax.parity.release_recording import CONSTANTS, Recording
from fof_jax.parity.release_tolerances import GRADIENT_FLOOR, TOLERANCES
from fof_jax.types import Variables

VIEWS = ("glb", "pos", "neg")
# metric of this package -> name in the recording
METRICS = {
    "accuracy": "acc",
    "f1": "f1",
    "auc": "auc",
    "ap": "ap",
    "balanced_accuracy": "bac",
    "kappa": "kappa",
}


def replay_units(
    z: Recording, *, scores: Callable[..., dict[str, Any]] | None = None
) -> list[Row]:
    """One row per function and quantity, the worst of its cases."""
    rows: list[Row] = []
    for name, check in _CHECKS.items():
        rows += [r for i in _cases(z, name) for r in check(z, f"{name}/{i}")]
    if scores is not None:
        rows += [r for i in _cases(z, "metrics") for r in _metrics(z, i, scores)]
    groups: dict[str, list[Row]] = {}
    for r in rows:
        groups.setdefault(r.quantity, []).append(r)
    return [worst(group, f"units {name}") for name, group in groups.items()]


def _cases(z: Recording, name: str) -> list[int]:
    cases = {k.split("/")[1] for k in z if k.startswith(f"{name}/")}
    return sorted(int(i) for i in cases if i.isdigit())


def _loss(name: str, at: str, ours, theirs) -> Row:
    # A loss of 0 (no positives, or one image) is compared absolutely.
    scale = max(abs(float(theirs)), 1e-2)
    return row(f"{name} loss", ours, theirs, TOLERANCES["loss"], scale=scale, where=at)


def _gradient(name: str, at: str, ours, theirs) -> Row:
    """Compares rows relative to their maxima; gradients of zero rows are 1e8 larger."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    maximum = np.abs(theirs).max(axis=-1, keepdims=True)
    scale = np.maximum(maximum, max(GRADIENT_FLOOR * np.median(maximum), 1e-6))
    tolerance = TOLERANCES["gradient"]
    return row(
        f"{name} gradient", ours / scale, theirs / scale, tolerance, scale=1.0, where=at
    )


def _supcon(z: Recording, at: str) -> list[Row]:
    labels = jnp.asarray(z[f"{at}/labels"].astype(np.int32))
    value, gradient = jax.jit(
        jax.value_and_grad(losses.supervised_contrastive), static_argnames=("tau",)
    )(jnp.asarray(z[f"{at}/features"]), labels, tau=float(z[f"{at}/temperature"]))
    return [
        _loss("supcon", at, value, z[f"{at}/loss"]),
        _gradient("supcon", at, gradient, z[f"{at}/grad"]),
    ]


def _multihead(z: Recording, at: str) -> list[Row]:
    labels = jnp.asarray(z[f"{at}/labels"].astype(np.int32))

    def loss(views):
        return losses.discrete_genes(**views, labels=labels, tau=CONSTANTS["tau"])

    views = {v: jnp.asarray(z[f"{at}/{v}"]) for v in VIEWS}
    value, gradient = jax.jit(jax.value_and_grad(loss))(views)
    return [_loss("multihead", at, value, z[f"{at}/loss"])] + [
        _gradient("multihead", at, gradient[v], z[f"{at}/grad_{v}"]) for v in VIEWS
    ]


def _region(z: Recording, at: str) -> list[Row]:
    def loss(views):
        return losses.region(**views, tau=float(z[f"{at}/temperature"]))

    theirs = dict(zip(VIEWS, ("anchor", "pos", "neg"), strict=True))
    views = {v: jnp.asarray(z[f"{at}/{name}"]) for v, name in theirs.items()}
    value, gradient = jax.jit(jax.value_and_grad(loss))(views)
    mask = losses.region_rows(views["glb"].shape[0])[0]
    return [
        _loss("region", at, value, z[f"{at}/loss"]),
        row("region mask", mask, z[f"{at}/mask"], TOLERANCES["mask"], scale=1.0),
    ] + [
        _gradient("region", at, gradient[v], z[f"{at}/grad_{name}"])
        for v, name in theirs.items()
    ]


def _gene_guidance(z: Recording, at: str) -> list[Row]:
    value, gradient = jax.jit(
        jax.value_and_grad(losses.float_genes), static_argnames=("batch",)
    )(
        jnp.asarray(z[f"{at}/features"]),
        jnp.asarray(z[f"{at}/gene"]),
        batch=int(z[f"{at}/batch_size"]),
    )
    return [
        _loss("geneguidance", at, value, z[f"{at}/loss"]),
        _gradient("geneguidance", at, gradient, z[f"{at}/grad"]),
    ]


def _cam2mask(z: Recording, at: str) -> list[Row]:
    A, theta = jnp.asarray(z[f"{at}/cam"]), float(z[f"{at}/threshold"])
    patch = int(z[f"{at}/patch"])
    hide = jax.jit(functools.partial(cam.hide_mask, patch=patch, theta=theta))(A)
    ours, theirs = hide.reshape(hide.shape[0], -1), z[f"{at}/mask"]
    return [row("cam2mask", ours, theirs, TOLERANCES["mask"], scale=1.0, where=at)]


def _cam_post(z: Recording, at: str) -> list[Row]:
    v, g = z[f"{at}/activations"], z[f"{at}/gradients"]  # [B, D, h, w]
    b, width, *grid = v.shape
    tokens, gradient = (a.reshape(b, width, -1).swapaxes(1, 2) for a in (v, g))
    side = int(z[f"{at}/image_size"])
    # R^T c is parallel to v1, the direction of the recorded component c.
    weighted = z[f"{at}/alpha"][:, None] * tokens
    weighted -= weighted.mean(axis=1, keepdims=True)
    component = z[f"{at}/projection"].reshape(b, -1)
    reference = np.einsum("bpd,bp->bd", weighted, component)

    @jax.jit
    def maps(tokens, gradient, reference):
        size, grid_size = (side, side), (grid[0], grid[1])
        activation = cam.map_of(
            tokens=tokens,
            gradient=gradient,
            grid=grid_size,
            image_size=size,
            reference=reference,
        )
        evidence = jnp.einsum("bpd,bd->bp", tokens, activation.alpha)
        evidence = jax.nn.relu(evidence).reshape(b, *grid_size)
        plain = cam.scale(evidence, image_size=size)
        return activation, cam.scale(plain, image_size=None)

    activation, plain = maps(tokens, gradient, reference)
    table = {
        "alpha": (activation.alpha, "forward"),
        "projection": (activation.projection, "component"),
        "final_eigen": (activation.A, "component"),
        "final_no_eigen": (plain, "component"),
    }
    return [
        row(f"campost {name}", ours, z[f"{at}/{name}"], TOLERANCES[rule], where=at)
        for name, (ours, rule) in table.items()
    ]


def _scale(z: Recording, at: str) -> list[Row]:
    width, height = (int(n) for n in z[f"{at}/target"])  # cv2's order
    size = (height, width) if height else None
    ours = jax.jit(functools.partial(cam.scale, image_size=size))(z[f"{at}/in"])
    return [row("scale", ours, z[f"{at}/out"], TOLERANCES["forward"], where=at)]


def _ema(z: Recording, at: str) -> list[Row]:
    variables = Variables(
        params={"local_projectors": jnp.asarray(z[f"{at}/local"])},
        state={"global_projectors": jnp.asarray(z[f"{at}/global_before"])},
    )
    state = averaging.averaged(
        variables, jnp.asarray(z[f"{at}/step"]), decay=CONSTANTS["ema_decay"]
    )
    ours, theirs = state["global_projectors"], z[f"{at}/global_after"]
    return [row("ema", ours, theirs, TOLERANCES["ema"], where=at)]


def _rates(z: Recording, at: str) -> list[Row]:
    warmup, total, base = (float(n) for n in z[f"{at}/warmup_total_base"])
    schedule = release_optimizer.learning_rate(
        base=base, warmup=int(warmup), total=int(total)
    )
    theirs = z[f"{at}/lr"]
    steps = jnp.arange(len(theirs)) * int(z[f"{at}/stride"])
    ours = jax.jit(jax.vmap(schedule))(steps)
    return [row("lr", ours, theirs, TOLERANCES["rate"], scale=base, where=at)]


def _metrics(z: Recording, i: int, scores: Callable[..., dict[str, Any]]) -> list[Row]:
    y, prob = z[f"metrics/{i}/y"].astype(np.int64), z[f"metrics/{i}/prob"]
    missing = len(np.unique(y)) < prob.shape[1]
    order = [str(name) for name in z["metrics/order"]]
    rows = []
    for average in ("micro", "macro"):
        ours = scores(y, prob, average=average)
        theirs = dict(zip(order, z[f"metrics/{i}/{average}"], strict=True))
        for name, other in METRICS.items():
            if missing and name in ("auc", "ap", "f1"):
                continue  # Q48: recorded as 0, or over other classes
            value = np.nan if ours[name] is None else ours[name]
            where = f"metrics/{i} {name}"
            rows.append(
                row(
                    f"metrics {average}",
                    value,
                    theirs[other],
                    TOLERANCES["metric"],
                    scale=1.0,
                    where=where,
                )
            )
    return rows


_CHECKS: dict[str, Callable[[Recording, str], list[Row]]] = {
    "supcon": _supcon,
    "multihead": _multihead,
    "region": _region,
    "geneguidance": _gene_guidance,
    "cam2mask": _cam2mask,
    "campost": _cam_post,
    "scale": _scale,
    "ema": _ema,
    "lr": _rates,
}
