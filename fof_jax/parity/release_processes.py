"""Replays one step of the authors' code with one and with two processes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.release import losses, state_dict
from fof_jax.parity import release_recording
from fof_jax.parity.comparison import Row, row, worst
from fof_jax.parity.release_recording import Recording
from fof_jax.parity.release_steps import forward_backward
from fof_jax.parity.release_tolerances import GRADIENT_FLOOR, TOLERANCES, tensors
from fof_jax.types import Variables


def is_case_of(z: Recording, case: Recording) -> bool:
    """Whether a case has the weights and first batch of a ddp recording."""
    names = [n for n in z if n.startswith(("init/", "batch0/"))]
    return "t0/cam/v1" in case and all(
        n in case and np.array_equal(z[n], case[n]) for n in names
    )


def replay_ddp(z: Recording, case: Recording) -> list[Row]:
    """Losses and gradients with one and with two emulated processes (items 30, 32)."""
    with_sizes = dict(z) | {k: case[k] for k in case if k.startswith("cfg/")}
    batch, variables = (
        release_recording.batch_of(with_sizes, 0),
        release_recording.variables_of(with_sizes),
    )
    patch = release_recording.constants(with_sizes)["patch"]
    reference = jnp.asarray(case["t0/cam/v1"])
    weights = {
        "region": "lambda_region",
        "dis": "lambda_dis_gene",
        "float": "lambda_float_gene",
    }
    out = []
    for world in (1, 2):
        method = release_recording.method_of(with_sizes, world_size_emulated=world)

        @jax.jit
        def run(weights, method=method):
            weighted = dataclasses.replace(method, **weights)
            return forward_backward(weighted, variables, batch, reference)

        gradients = {}
        for name in ("cls", *(f"cls+{term}" for term in weights), "full"):
            active = {
                field: getattr(method, field)
                if name == "full" or name.endswith(f"+{term}")
                else 0.0
                for term, field in weights.items()
            }
            views, _, terms, gradient = run(active)
            gradients[name] = state_dict.to_state_dict(
                Variables(gradient, {}), patch=patch
            )
            totals = _rank_totals(method, views, terms, batch)
            theirs = z[f"loss_total/world{world}/{name}"].reshape(-1)
            quantity = f"world {world} loss {name}"
            out.append(row(quantity, totals, theirs, TOLERANCES["loss"]))
        grads = tensors(
            z,
            f"grad_full/world{world}/",
            gradients["full"],
            tolerance=TOLERANCES["gradient"],
            scale_floor=GRADIENT_FLOOR,
        )
        out.append(worst(grads, f"world {world} gradients"))
        norm = "model.vit.layernorm.weight"
        for term in weights:
            ours = gradients[f"cls+{term}"][norm] - gradients["cls"][norm]
            theirs = z[f"grad_term_layernorm_weight/world{world}/{term}"]
            quantity = f"world {world} gradient of {term}"
            out.append(row(quantity, ours, theirs, TOLERANCES["gradient"]))
    return out


def _rank_totals(method, views, terms, batch) -> np.ndarray:
    """Total loss of each process: its own cross-entropy plus the global terms."""
    world = method.world_size_emulated
    cls = terms["global_cls"] + terms["pos_cls"] + method.lambda_neg * terms["neg_cls"]
    background = jnp.full_like(batch.grade, method.num_classes)
    local = []
    for rank in np.split(np.arange(batch.grade.shape[0]), world):
        value = losses.cross_entropy(views.glb.global_logits[rank], batch.grade[rank])
        value += losses.cross_entropy(views.pos.local_logits[rank], batch.grade[rank])
        value += method.lambda_neg * losses.cross_entropy(
            views.neg.local_logits[rank], background[rank]
        )
        local.append(value)
    return np.stack([terms["total"] - cls + value for value in local])
