"""Replays recordings of optimizer steps of the authors' code."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.methods.release import cam, state_dict
from fof_jax.methods.release import method as release_method
from fof_jax.methods.release.views import Views
from fof_jax.parity import release_optimizer, release_recording, release_tolerances
from fof_jax.parity.comparison import Row, row, worst
from fof_jax.parity.release_recording import Recording
from fof_jax.parity.release_tolerances import TOLERANCES
from fof_jax.types import Batch, StepContext, Variables

# metric of this package -> name in the recording
LOSSES = {
    "global_cls": "loss_global_cls",
    "pos_cls": "loss_pos_cls",
    "neg_cls": "loss_neg_cls",
    "region": "loss_region_raw",
    "dis_gene": "loss_dis_gene_raw",
    "float_gene": "loss_float_gene_raw",
    "total": "loss_total",
}


def forward_backward(method: release_method.Release, variables, batch, reference):
    """Views, projections, loss terms and gradients of one step."""
    views = method.views(variables, batch, reference)
    projected = method.project(
        variables, *(v.feature for v in (views.glb, views.pos, views.neg))
    )

    def loss(params):
        return method.loss(
            variables.replace(params=params),
            batch,
            StepContext(key=jax.random.key(0)),
            reference=reference,
        )

    (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
    return views, projected, aux.metrics, gradient


def replay_case(z: Recording) -> list[Row]:
    """Replays all steps from the recorded initial parameters and batches."""
    return _run(z)[0]


def per_step(z: Recording) -> dict[str, np.ndarray]:
    """Computed quantities of every step, under the recording's names."""
    return {name: np.stack(values) for name, values in _run(z)[1].items()}


def _run(z: Recording) -> tuple[list[Row], dict[str, list[Any]]]:
    method, constants = release_recording.method_of(z), release_recording.constants(z)
    variables = release_recording.variables_of(z)
    patch = constants["patch"]
    schedule = release_optimizer.learning_rate(
        base=constants["lr"], warmup=constants["warmup"], total=constants["total"]
    )
    adamw = release_optimizer.optimizer(
        schedule, weight_decay=constants["weight_decay"]
    )
    opt_state = adamw.init(variables.params)
    run = jax.jit(functools.partial(forward_backward, method))

    @jax.jit
    def update(variables, opt_state, gradient, step):
        change, opt_state = adamw.update(gradient, opt_state, variables.params)
        params = optax.apply_updates(variables.params, change)
        variables = variables.replace(params=params)
        state = method.update_state(variables, step)
        return variables.replace(state=state), opt_state

    rows: list[Row] = []
    per_step = _Steps(z)
    for step in range(constants["steps"]):
        batch = release_recording.batch_of(z, step % constants["nbatch"])
        reference = jnp.asarray(z["steps/cam_v1"][step])
        views, projected, terms, gradient = run(variables, batch, reference)
        if step == 0:
            rows += _first_step(z, views, projected)
            named = state_dict.to_state_dict(Variables(gradient, {}), patch=patch)
            rows.append(_gradients(z, named, patches=views.tokens.shape[1]))
        per_step.add(views, terms, float(schedule(step)), batch)
        variables, opt_state = update(variables, opt_state, gradient, step)
        if any(name.startswith(f"after{step + 1}/") for name in z):
            rows += _parameters(z, variables, step + 1, constants)
    return rows + per_step.rows(constants["lr"]), per_step.ours


def _channels_first(tokens: jax.Array, grid: tuple[int, int]) -> np.ndarray:
    b, _, width = tokens.shape
    return np.asarray(tokens).swapaxes(1, 2).reshape(b, width, *grid)


def _first_step(z: Recording, views: Views, projected: tuple[Any, ...]) -> list[Row]:
    """Intermediate results of step 0."""
    a = views.activation
    grid = (a.projection.shape[1], a.projection.shape[2])
    b = a.alpha.shape[0]
    forward, component = TOLERANCES["forward"], TOLERANCES["component"]
    pooled = _pooled(a)
    # quantity, recorded name, ours, tolerance
    table: list[tuple[str, str, Any, float]] = [
        (
            "activations",
            "cam/activations",
            _channels_first(views.tokens, grid),
            forward,
        ),
        ("CAM gradients", "cam/gradients", _channels_first(a.gradient, grid), forward),
        ("alpha", "cam/alpha", a.alpha, forward),
        ("weighted sum", "cam/weighted_sum", _weighted_sum(views, grid), forward),
        ("principal direction", "cam/v1", a.direction, component),
        ("principal component", "cam/projection", a.projection, component),
        ("scaled once", "cam/scaled_first", a.scaled, component),
        ("scaled twice", "cam/scaled_final", a.A, component),
        ("pooled", "cam/pooled", pooled.reshape(b, -1), component),
        ("mask", "mask", views.hide.reshape(b, -1), TOLERANCES["mask"]),
    ]
    outputs = {"cam": views.glb, "glb": views.glb, "pos": views.pos, "neg": views.neg}
    for view, output in outputs.items():
        heads = {"global": output.global_logits, "local": output.local_logits}
        table += [
            (f"logits_{head}", f"logits_{head}/{view}", logits, forward)
            for head, logits in heads.items()
        ]
        if view != "cam":
            table.append(("features", f"features/{view}", output.feature, forward))
    for view, p in zip(("glb", "pos", "neg"), projected, strict=True):
        table.append(("proj_region", f"proj_region/{view}", p.region, forward))
        table.append(("proj_gene", f"proj_gene/{view}", p.gene, forward))
    rows: dict[str, list[Row]] = {}
    for quantity, name, ours, tolerance in table:
        ours, theirs = release_tolerances.recorded(z, f"t0/{name}", ours)
        scale = 1.0 if quantity == "mask" else None
        rows.setdefault(quantity, []).append(
            row(quantity, ours, theirs, tolerance, where=name, scale=scale)
        )
    return [worst(group, f"step 0 {name}") for name, group in rows.items()]


def _weighted_sum(views: Views, grid: tuple[int, int]) -> jax.Array:
    alpha = views.activation.alpha
    return jnp.einsum("bpd,bd->bp", views.tokens, alpha).reshape(-1, *grid)


def _pooled(a: cam.Activation) -> jax.Array:
    return cam.pooled(a.A, patch=a.A.shape[1] // a.projection.shape[1])


def _gradients(z: Recording, ours: dict[str, np.ndarray], *, patches: int) -> Row:
    fine = patches >= release_tolerances.FINE_GRID
    rows = release_tolerances.tensors(
        z,
        "t0/grad/",
        ours,
        tolerance=TOLERANCES["gradient_fine" if fine else "gradient"],
        scale_floor=release_tolerances.GRADIENT_FLOOR,
    )
    return worst(rows, "step 0 gradients")


def _parameters(
    z: Recording, variables: Variables, steps: int, constants: dict[str, Any]
) -> list[Row]:
    """Parameters and EMA heads; a few elements may deviate by up to the rate."""
    named = state_dict.to_state_dict(variables, patch=constants["patch"])
    prefix = f"after{steps}/"
    high_rate = constants["lr"] > 1e-4
    bound = TOLERANCES["parameter_fast" if high_rate else "parameter"]
    rows = release_tolerances.tensors(
        z,
        prefix,
        named,
        tolerance=bound,
        absolute=True,
        leave_out=("attention.key.bias",),
    )
    out = []
    for title, group in (
        ("parameters", [r for r in rows if not r.where.startswith("global_proj")]),
        ("EMA projectors", [r for r in rows if r.where.startswith("global_proj")]),
    ):
        chosen = worst(group, f"{title} after {steps}")
        outliers, rest = _outliers(z, prefix, named, group, bound)
        if outliers and len(outliers) <= release_tolerances.MAX_OUTLIERS:
            # Not `>`, so that NaN fails.
            if max(outliers) <= constants["lr"]:
                where = f"{chosen.where}, {len(outliers)} outliers ignored"
                chosen = dataclasses.replace(chosen, deviation=rest, where=where)
        out.append(chosen)
    return out


def _outliers(
    z: Recording,
    prefix: str,
    named: dict[str, np.ndarray],
    rows: list[Row],
    bound: float,
) -> tuple[list[float], float]:
    """Differences beyond the bound (or NaN), and the largest of the others."""
    outliers: list[float] = []
    rest = max((r.deviation for r in rows if r.ok), default=0.0)
    for name in (r.where.split("[")[0] for r in rows if not r.ok):
        ours, theirs = release_tolerances.recorded(z, prefix + name, named[name])
        difference = np.abs(ours - theirs)
        within = difference <= bound
        outliers += difference[~within].tolist()
        rest = max(rest, float(difference[within].max(initial=0.0)))
    return outliers, rest


class _Steps:
    """Collects the computed quantities of every step."""

    def __init__(self, z: Recording):
        self.z = z
        self.ours: dict[str, list[Any]] = {}

    def add(
        self,
        views: Views,
        terms: dict[str, jax.Array],
        rate: float,
        batch: Batch,
    ) -> None:
        """Adds the quantities of one step, under the recording's names."""
        b = batch.grade.shape[0]
        a = views.activation
        score = jnp.take_along_axis(
            views.glb.global_logits, batch.grade[:, None], axis=1
        ).sum()
        quantities = {name: terms[term] for term, name in LOSSES.items()} | {
            "cam_score_sum": score,
            "mask": views.hide.reshape(b, -1),
            "cam_pooled": _pooled(a).reshape(b, -1),
            "cam_projection": a.projection,
            "cam_v1": a.direction,
            "lr_model": rate,
            "lr_local_projectors": rate,
        }
        for name, value in quantities.items():
            self.ours.setdefault(name, []).append(np.asarray(value))

    def rows(self, base: float) -> list[Row]:
        """One row per quantity: the step with the largest deviation."""
        rules = {name: ("loss", None) for name in LOSSES.values()} | {
            "cam_score_sum": ("score", 1.0),
            "mask": ("mask", 1.0),
            "cam_pooled": ("component_later", None),
            "cam_projection": ("component_later", None),
            "cam_v1": ("component_later", None),
            "lr_model": ("rate", base),
            "lr_local_projectors": ("rate", base),
        }
        out = []
        for name, (rule, scale) in rules.items():
            steps = [
                row(name, a, b, TOLERANCES[rule], scale=scale, where=f"step {t} ")
                for t, (a, b) in enumerate(
                    zip(self.ours[name], self.z[f"steps/{name}"], strict=True)
                )
            ]
            out.append(worst(steps, f"all steps {name}"))
        return out
